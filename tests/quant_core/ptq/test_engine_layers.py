"""Whole networks under post-training quantization: every kind of layer, and what each correction is worth."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import LayerPolicy, Policy, parse, parse_layer_policy
from quant_core.codecs.quantize import decode, fake_quantize
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from tests.quant_core.ptq import engine_cases as CASES


class Tokens(nn.Module):
    """Embedding tied to the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(self.embedding(x))))


def test_each_weight_is_the_quantizers_own() -> None:
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches)
    floats = {name: engine.model.get_submodule(name).get_parameter("weight").clone() for name in ("stem", "shared", "up", "head")}
    network = engine.apply(CASES.uniform(model, batches, "weight=int3:channel:octav"))
    for name, weight in floats.items():
        axis = 1 if name == "up" else 0
        expected = fake_quantize(weight, "int3:channel:octav", channel_axis=axis)
        actual = network.get_submodule(name).get_parameter("weight")
        gain = (actual / expected).nan_to_num(nan=0.0).movedim(axis, 0).flatten(1).amax(dim=1)
        torch.testing.assert_close(actual.movedim(axis, 0), expected.movedim(axis, 0) * gain.view(-1, *(1,) * (weight.dim() - 1)))
        assert torch.equal(
            actual, decode(engine.encoded(name, parse("int3:channel:octav")), "int3:channel:octav", tuple(weight.shape), channel_axis=axis)
        )


@pytest.mark.parametrize("bits", [2, 4])
def test_bias_correction_makes_each_layers_mean_output_right(bits: int) -> None:
    """With one layer quantized its mean output over the calibration data, per channel, is that of the float network."""
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches)
    inputs = torch.cat(batches)
    for name in ("stem", "up", "head"):
        seen: list[Tensor] = []
        layer = engine.model.get_submodule(name)
        handle = layer.register_forward_hook(lambda _m, _a, y, seen=seen: seen.append(y.movedim(1, 0).flatten(1).mean(dim=1)))
        policy = dict.fromkeys(("stem", "shared", "up", "head"), LayerPolicy())
        with torch.no_grad():
            engine.restore()(inputs)
            engine.apply(Policy(policy | {name: parse_layer_policy(f"weight=int{bits}:tensor")}))(inputs)
        handle.remove()
        torch.testing.assert_close(seen[-1], seen[0], rtol=1e-4, atol=1e-5)


def _task() -> tuple[nn.Module, list[Tensor], Tensor]:
    """Return a small trained classifier of two moons in eight dimensions, its data and labels."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(512, generator=generator) * torch.pi
    label = torch.arange(512) % 2
    x = torch.stack([angle.cos() + label, angle.sin() * (1 - 2 * label) + 0.4 * label], dim=1)
    x = (x + 0.1 * torch.randn(512, 2, generator=generator)) @ torch.randn(2, 8, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), label).backward()
        optimizer.step()
    return model.eval(), list(x.split(128)), label


def test_defaults_are_the_ones_that_win() -> None:
    """MSE clipping beats min-max, bias correction and AdaRound help, at 2 bits, on a trained network."""
    model, batches, label = _task()
    inputs = torch.cat(batches)

    def loss(text: str, bias_correction: bool) -> float:
        network = CASES.engine(model, batches, bias_correction).apply(CASES.uniform(model, batches, f"weight={text}"))
        return float(F.cross_entropy(network(inputs), label).detach())

    best = loss("int2:channel:mse", True)
    assert best < loss("int2:channel:mse", False)
    assert best < loss("int2:channel:minmax", True)
    assert loss("int2:channel:mse:adaround", True) < best


def test_embedding_and_tied_weights() -> None:
    torch.manual_seed(0)
    model, batches = Tokens().eval(), [torch.randint(11, (4, 5)) for _ in range(2)]
    engine = CASES.engine(model, batches)
    policy = CASES.uniform(model, batches, "weight=int4:channel:mse,activation=int8:token:dynamic")
    network = engine.apply(policy)
    expected = fake_quantize(model.embedding.weight, "int4:channel:mse")
    assert torch.equal(network.get_submodule("embedding").get_parameter("weight"), expected)
    assert torch.equal(network.get_submodule("out").get_parameter("weight"), expected)
    network = engine.apply(Policy({**policy, "out": LayerPolicy()}))
    assert torch.equal(network.get_submodule("out").get_parameter("weight"), model.embedding.weight)
    assert torch.equal(network.get_submodule("embedding").get_parameter("weight"), expected)
    assert network(batches[0]).shape == (4, 5, 11)


@pytest.mark.parametrize(
    "activation",
    [
        "int8:tensor",
        "int4:tensor:mse",
        "int8:tensor:affine:percentile",
        "int8:tensor:dynamic",
        "int8:token:dynamic",
        "mxfp8",
        "nvfp4",
        "mx6",
    ],
)
def test_activations_of_every_kind_of_layer(activation: str) -> None:
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches)
    expected = engine.restore()(batches[0])
    actual = engine.apply(CASES.uniform(model, batches, f"activation={activation}"))(batches[0])
    difference = (actual - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 0.25


def test_equalisation_helps_a_depthwise_network_with_one_scale_per_tensor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.Conv2d(12, 4, 1)).eval()
    factors = torch.logspace(-1, 1, 12)
    with torch.no_grad():
        model[0].weight *= factors[:, None, None, None]
        model[0].bias *= factors
        model[2].weight /= factors[:, None, None, None]
    batches = CASES.images()
    errors = []
    for equalize in (False, True):
        engine = PostTraining(model, trace(model, batches[0]), batches, batches[0], equalize=equalize)
        network = engine.apply(CASES.uniform(model, batches, "weight=int4:tensor:mse"))
        errors.append(float((network(batches[0]) - model(batches[0])).detach().square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_transformers_conv1d_layers() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model, batches = nn.Sequential(Conv1D(12, 6), nn.GELU(), Conv1D(5, 12)).eval(), [torch.rand(4, 7, 6) for _ in range(2)]
    engine = CASES.engine(model, batches)
    for weight in ("int4:channel:mse", "int4:channel:mse:adaround", "int4:group4:affine"):
        network = engine.apply(CASES.uniform(model, batches, f"weight={weight},activation=int8:token"))
        assert len(network.get_submodule("0").get_parameter("weight")[:, 0].unique()) <= 16
        error = (network(batches[0]) - model(batches[0])).abs().max() / model(batches[0]).abs().max()
        assert 0 < float(error.detach()) < 0.3
