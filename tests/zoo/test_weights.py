"""Weights that are no `weight` of a Linear or Conv layer: all are layers, quantized, counted, trained, packed and read back."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitfront
from quant_core.codecs.quantize import fake_quantize
from quant_core.network.forward import forward
from quant_core.network.parameters import weight_of
from quant_core.network.statistics import collect
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.qat.prepare import constrain, finalize, float_weights, prepare
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, parse_layer_policy
from quant_core.spec.quant_spec import parse
from quant_core.spec.size import weight_bytes
from spaces.rules import uniform_policy
from tests.zoo.weight_networks import MAKERS, SLOW, made

EVERY_NETWORK = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MAKERS])
pytestmark = [
    pytest.mark.filterwarnings("ignore::quant_core.util.errors.LeftInFloatWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def outputs_of(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return forward(model, inputs)


def engine_of(model: nn.Module, layers: list[Layer], inputs: Any) -> PostTraining:
    return PostTraining(model, layers, [inputs], inputs, bias_correction=False, scale_correction=False)


def wide(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}


@EVERY_NETWORK
def test_all_weights_are_layers(name: str) -> None:
    model, inputs = made(name)
    layers = trace(model, inputs, [inputs])
    covered = sum(layer.weights for layer in layers if layer.calls)
    assert covered >= 0.96 * sum(parameter.numel() for parameter in wide(model).values())
    assert all(layer.calls == 1 or "cell" in name for layer in layers if layer.kind == "linear"), [layer.name for layer in layers]
    assert all(layer.macs > 0 for layer in layers if layer.kind == "linear")
    assert layers[-1].name.rpartition(".")[2] in ("head", "lm_head", "3")


@EVERY_NETWORK
def test_an_all_float_policy_gives_the_float_network(name: str) -> None:
    model, inputs = made(name)
    expected = outputs_of(model, inputs)
    network = bitfront.quantize(model, "weight=float,activation=float", inputs)
    torch.testing.assert_close(outputs_of(network, inputs), expected, rtol=1e-4, atol=1e-5)


@EVERY_NETWORK
def test_the_simulation_is_a_copy_whose_weights_are_fake_quantized(name: str) -> None:
    """An independent copy: every parameter of two or more axes rounded along the last axis that its owner sums over."""
    model, inputs = made(name)
    layers = trace(model, inputs, [inputs])
    spec = parse("int4:channel")
    simulation = engine_of(model, layers, inputs).apply(uniform_policy(layers, LayerPolicy(weight=spec)))
    again = copy.deepcopy(model)
    names = {layer.name for layer in layers}
    with torch.no_grad():
        for key, parameter in wide(again).items():
            if key not in names and key.removesuffix(".weight") not in names:
                continue
            stack = parameter.dim() == 3 and "pair" not in key
            contraction = 1 if key.endswith("experts.down") else 0 if key in ("projection", "experts.router") else parameter.dim() - 1
            moved = parameter.movedim(contraction, -1) if stack or contraction == 0 else parameter
            rounded = fake_quantize(moved.reshape(-1, moved.shape[-1]) if stack else moved.contiguous(), spec).reshape(moved.shape)
            parameter.copy_(rounded.movedim(-1, contraction) if stack or contraction == 0 else rounded)
    torch.testing.assert_close(outputs_of(simulation, inputs), outputs_of(again, inputs), rtol=1e-5, atol=1e-6)
    assert not torch.equal(outputs_of(simulation, inputs), outputs_of(model, inputs))


@EVERY_NETWORK
def test_eight_bits_are_close_and_can_be_taken_back(name: str) -> None:
    model, inputs = made(name)
    layers = trace(model, inputs, [inputs])
    engine = PostTraining(model, layers, [inputs], inputs)
    expected = outputs_of(model, inputs)
    policy = uniform_policy(layers, parse_layer_policy("weight=int8:channel,activation=int8:tensor"))
    off = (outputs_of(engine.apply(policy), inputs) - expected).abs().amax(dim=1)
    assert float(off.median()) <= 0.03 * float(expected.abs().amax())
    torch.testing.assert_close(outputs_of(engine.restore(), inputs), expected, rtol=1e-5, atol=1e-5)
    assert {layer.name for layer in layers if layer.weight_only or layer.kind == "embedding"}.isdisjoint(engine.statistics)


@EVERY_NETWORK
def test_weight_bytes_are_those_of_an_independent_count(name: str) -> None:
    model, inputs = made(name)
    layers = trace(model, inputs, [inputs])
    policy = uniform_policy(layers, parse_layer_policy("weight=int4:tensor"))
    elements = sum(weight_of(model, layer.name).numel() for layer in layers)
    assert weight_bytes(layers, policy) == pytest.approx(elements / 2 + 4 * len(layers), rel=0.01)


@EVERY_NETWORK
def test_weights_train_through_their_quantizers(name: str) -> None:
    model, inputs = made(name)
    inputs = inputs[:8]
    layers = trace(model, inputs, [inputs])
    policy = uniform_policy(layers, parse_layer_policy("weight=int4:channel,activation=int8:tensor"))
    student = prepare(model, policy, "lsq", statistics=collect(model, layers, [inputs]), layers=layers)
    before = float_weights(student)
    assert set(before) == set(model.state_dict())
    before = {key: value.detach().clone() for key, value in before.items()}
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    forward(student, inputs).square().mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    constrain(student)
    student = copy.deepcopy(student).eval()
    moved = [key for key, value in float_weights(student).items() if not torch.equal(value, before[key])]
    fixed = {"experts.router"}  # argmax passes no gradient
    assert {layer.name for layer in layers} - fixed <= {key for name in moved for key in (name, name.removesuffix(".weight"))}
    plain = finalize(student)
    assert set(plain.state_dict()) >= set(model.state_dict())
    assert torch.equal(outputs_of(plain, inputs), outputs_of(student, inputs))
    for layer in layers:
        assert len(weight_of(plain, layer.name).flatten(1)[0].unique()) <= 16 or layer.stack_shape or layer.channel_axis
