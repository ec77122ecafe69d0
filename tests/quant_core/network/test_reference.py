"""The network that is measured: in eval mode, unchanged by its forward passes, and the user's own left as it is."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.reference import NetworkModeWarning, noisy_modules, reference_network
from quant_core.util.errors import BitfrontError, InputError


def state(model: nn.Module) -> dict[str, object]:
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.named_modules()}
    return {"modes": modes, "hooks": hooks, "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()}}


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    a, b = one["tensors"], other["tensors"]
    assert isinstance(a, dict)
    assert isinstance(b, dict)
    return one["modes"] == other["modes"] and one["hooks"] == other["hooks"] and all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_in_eval_mode_is_measured_itself() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reference_network(model) is model


@pytest.mark.parametrize("part", ["", "1"])
def test_train_mode_is_measured_on_a_copy(part: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    model.get_submodule(part).train()
    before, inputs = state(model), torch.randn(20, 3)
    expected = copy.deepcopy(model).eval()(inputs)
    with pytest.warns(NetworkModeWarning, match="in train mode: .*; a copy in eval mode is measured"):
        reference = reference_network(model)
    assert torch.equal(reference(inputs), expected)
    assert same(state(model), before)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("norm_type", [1.0, 2.0])
def test_max_norm_is_applied_once_on_a_copy(kind: type[nn.Embedding | nn.EmbeddingBag], norm_type: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(10, 4, max_norm=0.7, norm_type=norm_type)).eval()
    before, inputs = state(model), torch.tensor([[1, 2], [3, 9]])
    expected = copy.deepcopy(model)(inputs)
    reference = reference_network(model)
    assert torch.allclose(reference(inputs), expected, atol=1e-6)
    assert torch.equal(reference(inputs), reference(inputs))
    assert same(state(model), before), "torch's own forward pass would have changed the weights"
    assert not torch.equal(before["tensors"]["0.weight"], reference.state_dict()["0.weight"])  # type: ignore[index]


def test_a_network_that_cannot_be_copied_says_what_to_do() -> None:
    class Single(nn.Linear):
        def __deepcopy__(self, memo: object) -> "Single":
            raise TypeError("there is only one")

    with pytest.raises(BitfrontError, match=r"cannot be copied \(TypeError: there is only one\); call eval\(\) on it"):
        reference_network(Single(2, 2))


class AlwaysDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Stochastic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 8), AlwaysDropout())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x))  # type: ignore[no-any-return]


def test_noise_that_eval_mode_leaves_is_named_where_it_begins() -> None:
    assert noisy_modules(Stochastic().eval(), torch.ones(16, 3)) == ["inner.1"]
    assert noisy_modules(nn.Sequential(nn.Linear(3, 2), nn.Dropout()).eval(), torch.ones(4, 3)) == []


def test_noise_of_the_network_itself_is_named() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    assert noisy_modules(Own().eval(), torch.ones(4, 3)) == ["the network itself"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_compiled_part_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.ReLU()))
    with pytest.raises(InputError, match=r"^module '1' was compiled by torch\.jit, .*; give the Python module that it was made of\.$"):
        reference_network(model.eval())
