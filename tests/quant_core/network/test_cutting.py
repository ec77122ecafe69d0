"""Batches in parts: in order, joined again to what the whole batch gives, and whole where they cannot be cut."""

from typing import Any

import pytest
import torch
from torch import nn

from quant_core.network.cutting import call_in_parts, forward_in_parts, parts

X = torch.arange(20.0).reshape(10, 2)


def test_parts_say_where_they_lie() -> None:
    cut = list(parts(X, 4))
    assert [(part.first, part.count, part.total) for part in cut] == [(0, 5, 10), (5, 5, 10)]
    assert torch.equal(torch.cat([part.inputs for part in cut]), X)
    assert [part.count for part in parts(X, 3)] == [4, 4, 2]  # no part of one


@pytest.mark.parametrize(("inputs", "size"), [(X, 0), (X, 10), ((X, torch.zeros(1, 2)), 4), ({"x": X, "scale": torch.tensor(2.0)}, 4)])
def test_a_batch_stays_whole_where_it_fits_or_a_tensor_has_no_row_per_example(inputs: Any, size: int) -> None:
    assert [part.inputs is inputs for part in parts(inputs, size)] == [True]


class Parted(nn.Module):
    """Returns a tree, and counts the examples of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.sizes = nn.Linear(2, 3), list[int]()

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        self.sizes.append(len(x))
        return {"logits": self.layer(x), "more": (x * 2.0, None)}


def test_outputs_of_any_structure_are_joined() -> None:
    model = Parted().eval()
    with torch.inference_mode():
        whole, joined = model(X), call_in_parts(model, X, 4)
        assert torch.allclose(forward_in_parts(model, X, 3), whole["logits"])
    assert model.sizes == [10, 5, 5, 4, 4, 2]
    assert torch.allclose(joined["logits"], whole["logits"])
    assert torch.equal(joined["more"][0], whole["more"][0])
    assert joined["more"][1] is None


def test_what_has_no_row_per_example_is_not_joined() -> None:
    with pytest.raises(ValueError, match="no row per example"):
        call_in_parts(_Total(), X, 4)


class _Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()
