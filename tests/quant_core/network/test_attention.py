"""Attention is found whatever it is written in, and nothing else is taken for it."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.attention import cached_heads, find_attention
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.util.errors import InputError
from tests.quant_core.network.attention_cases import KINDS, Network, Own, X


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fused by head"])
def test_keys_and_values_of_grouped_queries_are_counted_once(kind: str, mode: type[torch.no_grad]) -> None:
    with mode():
        found = find_attention(Network(kind), X)
    assert list(found.modules) == ["attention"]
    assert found.heads == ((2, 8),) * 4  # keys and values of two calls


@pytest.mark.parametrize("weights", [False, True])
def test_the_attention_of_torch_is_found(weights: bool) -> None:
    found = find_attention(Own(weights=weights), X)
    assert found.modules.keys() == {"attention"}
    assert found.heads == ((4, 8),) * 2


class Gate(nn.Module):
    """Products and softmaxes without keys and values: of a parameter, and without a second product."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.router = nn.Parameter(torch.randn(1, 32, 4)), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1) * torch.bmm(x, self.experts.expand(len(x), 32, 4)).softmax(-1)
        return torch.bmm(x.transpose(1, 2), gates)


def test_gates_and_products_of_weights_are_no_attention() -> None:
    assert not find_attention(Gate().eval(), X).modules
    assert cached_heads(Gate().eval(), X, [FLOAT]) == ()
    with pytest.raises(InputError, match="kv = float, int8:token given, but no attention was seen in the network: neither scaled_dot"):
        cached_heads(Gate().eval(), X, [FLOAT, parse("int8:token")])


class Parts(nn.Module):
    """Attention whose products are one module that is called twice."""

    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a @ b

    def __init__(self) -> None:
        super().__init__()
        self.product, self.softmax = Parts.Product(), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (4, 8)).transpose(1, 2)
        y: Tensor = self.product(self.softmax(self.product(heads, heads.transpose(-1, -2))), heads)
        return y


def test_products_in_modules_of_their_own_are_of_the_module_that_calls_both() -> None:
    found = find_attention(Parts().eval(), X)
    assert list(found.modules) == [""]
    assert [(operand.call, operand.axis) for operand in found.modules[""]] == [(0, -2), (1, -1)]
