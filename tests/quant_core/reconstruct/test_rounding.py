"""The soft weight of a layer: its two neighbours, its start, its regulariser, and what it stores."""

import pytest
import torch
from torch import nn

from quant_core.codecs.quantize import decode, encode
from quant_core.network.trace import trace
from quant_core.reconstruct.rounding import LearnedWeight, SoftWeight
from quant_core.spec.quant_spec import QuantSpec, parse

MODULES = {
    "linear": (lambda: nn.Linear(8, 5), torch.rand(4, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), torch.rand(2, 4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), torch.rand(2, 4, 5, 5)),
}
TEXTS = ["int3:channel:mse", "int4:tensor:mse", "int3:group4:mse", "int4:channel:mse:affine", "kmeans3:tensor", "mxfp4", "ternary:twn"]


def made(kind: str, text: str) -> tuple[SoftWeight, nn.Module, LearnedWeight, QuantSpec, int]:
    make, x = MODULES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().requires_grad_(False)
    model = nn.Sequential(module)
    (layer,) = trace(model, x)
    spec = parse(text)
    bias = torch.linspace(-1, 1, len(module.bias))
    start = LearnedWeight(encode(module.weight, spec, channel_axis=layer.channel_axis), bias)
    return SoftWeight(module, layer, spec, module.weight.detach(), start, 2.0), module, start, spec, layer.channel_axis


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("text", TEXTS)
def test_before_it_learns_it_stores_its_start(kind: str, text: str) -> None:
    soft, module, start, spec, axis = made(kind, text)
    stored = soft.hardened()
    values = [decode(part.encoded, spec, tuple(module.weight.shape), channel_axis=axis) for part in (stored, start)]
    assert torch.equal(*values)  # codes of -0 become those of +0
    assert torch.equal(stored.bias, start.bias)


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("text", TEXTS)
def test_hard_values_are_what_is_stored(kind: str, text: str) -> None:
    soft, module, _, spec, axis = made(kind, text)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        soft.v.copy_((torch.rand(soft.v.shape, generator=generator) - 0.5).sign() * 20)
        for tensor in soft.others():
            tensor.add_(0.1)
        stored = soft.hardened()
        again = decode(stored.encoded, spec, tuple(module.weight.shape), channel_axis=axis)
        assert torch.allclose(again, soft.values(), rtol=1e-3, atol=1e-5)  # scales are stored in 16 bits
        assert torch.allclose(stored.bias, soft.bias())
        assert torch.allclose(stored.bias, torch.linspace(-1, 1, len(module.bias)) + 0.2)


def test_the_two_neighbours_enclose_the_float_value_where_the_start_is_nearest() -> None:
    soft, module, _, _, _ = made("linear", "int4:channel:mse")
    with torch.no_grad():
        ends = []
        for value in (-20.0, 20.0):
            soft.v.fill_(value)
            ends.append(soft.values())
    inside = (ends[0] <= module.weight) & (module.weight <= ends[1])
    clipped = (module.weight > ends[1]) | (module.weight < ends[0])
    assert float(inside.float().mean()) > 0.8
    assert bool((inside | clipped).all())


def test_the_regulariser_is_nothing_where_all_is_decided_and_one_in_the_middle() -> None:
    soft, _, _, _, _ = made("linear", "int4:channel:mse")
    with torch.no_grad():
        soft.v.fill_(20.0)
        assert soft.pull(2.0)[0] == 0
        soft.v.zero_()
        total, count = soft.pull(20.0)
    assert count == 40
    assert float(total) == pytest.approx(40)


def test_gradients_reach_everything() -> None:
    soft, _, _, _, _ = made("grouped", "int4:channel:mse")
    bias = soft.bias()
    assert bias is not None
    (soft.values().sum() + bias.sum()).backward()
    assert all(tensor.grad is not None and float(tensor.grad.abs().sum()) > 0 for tensor in (soft.v, *soft.others()))


def test_scales_that_are_powers_of_two_take_no_factor() -> None:
    assert len(made("linear", "mxfp4")[0].others()) == 1
    assert len(made("linear", "int4:channel:mse")[0].others()) == 2
