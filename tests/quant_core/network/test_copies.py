"""Copies that share weights: what is set in the copy leaves the original alone."""

import torch
from torch import nn

from quant_core.network.copies import sharing_copy, versions


class Scaled(nn.Module):
    """A parameter of a class of its own, a tie, a buffer."""

    class Kind(nn.Parameter):
        """Something else than a plain parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.special = self.Kind(torch.ones(2))
        self.register_buffer("steps", torch.zeros(1))


def test_parameters_lie_where_they_did_and_buffers_do_not() -> None:
    model = Scaled()
    model.second.bias.requires_grad_(False)
    twin = sharing_copy(model)
    assert isinstance(twin, Scaled)
    for name in ("first.weight", "first.bias", "second.bias"):
        one, other = model.get_parameter(name), twin.get_parameter(name)
        assert one is not other
        assert one.data_ptr() == other.data_ptr()
        assert one.requires_grad == other.requires_grad
    assert twin.first.weight is twin.second.weight
    assert twin.special.data_ptr() != model.special.data_ptr()
    assert twin.steps.data_ptr() != model.steps.data_ptr()
    weight = model.first.weight.detach().clone()
    twin.first.weight.data = torch.zeros(3, 3)
    twin.requires_grad_(False)
    assert torch.equal(model.first.weight, weight)
    assert model.first.weight.requires_grad


def test_versions_tell_of_writing() -> None:
    model = nn.Linear(2, 2)
    before = versions(model)
    model(torch.ones(1, 2))
    assert versions(model) == before
    with torch.no_grad():
        model.bias.add_(1)
    assert versions(model) != before
