"""Post-training quantization of whole networks: every kind of layer, caches, corrections, refusals."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import FLOAT, InputError, LayerPolicy, Policy, parse, parse_layer_policy
from quant_core.codecs.quantize import decode, fake_quantize
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining, seeded
from quant_core.util.errors import LeftInFloatWarning

WEIGHT4 = "weight=int4:channel:mse"


class Branching(nn.Module):
    """Shared layer called twice, a residual, control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + F.relu(self.shared(self.shared(x)))
        if x.mean() > -1e9:
            x = self.up(x)
        return self.head(x.mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Embedding tied to the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(11, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(self.embedding(x))))


def _images(batches: int = 2, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 8, 8, generator=generator) for _ in range(batches)]


def _engine(model: nn.Module, batches: list[Tensor], bias_correction: bool = True, cache_bytes: int = 2**20) -> PostTraining:
    layers = trace(model, batches[0])
    return PostTraining(model, layers, batches, batches[0], bias_correction=bias_correction, cache_bytes=cache_bytes)


def _uniform(model: nn.Module, batches: list[Tensor], text: str) -> Policy:
    return Policy({each.name: parse_layer_policy(text) for each in trace(model, batches[0])})


def _branching() -> nn.Module:
    torch.manual_seed(0)
    model = Branching()
    with torch.no_grad():
        for batch in _images(20):
            model(batch)
    return model.eval()


def test_float_policy_and_restore_give_the_float_network() -> None:
    model, batches = _branching(), _images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = _engine(model, batches)
    expected = model(batches[0])
    quantized = engine.apply(_uniform(model, batches, "weight=int4:channel:mse,activation=int8:tensor:mse"))
    assert (quantized(batches[0]) - expected).abs().max() > 1e-3
    torch.testing.assert_close(engine.restore()(batches[0]), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_each_weight_is_the_quantizers_own() -> None:
    model, batches = _branching(), _images()
    engine = _engine(model, batches)
    floats = {name: engine.model.get_submodule(name).get_parameter("weight").clone() for name in ("stem", "shared", "up", "head")}
    network = engine.apply(_uniform(model, batches, "weight=int3:channel:octav"))
    for name, weight in floats.items():
        axis = 1 if name == "up" else 0
        expected = fake_quantize(weight, "int3:channel:octav", channel_axis=axis)
        found = network.get_submodule(name).get_parameter("weight")
        gain = (found / expected).nan_to_num(nan=0.0).movedim(axis, 0).flatten(1).amax(dim=1)
        torch.testing.assert_close(found.movedim(axis, 0), expected.movedim(axis, 0) * gain.view(-1, *(1,) * (weight.dim() - 1)))
        assert torch.equal(
            found, decode(engine.encoded(name, parse("int3:channel:octav")), "int3:channel:octav", tuple(weight.shape), channel_axis=axis)
        )


@pytest.mark.parametrize("bits", [2, 4])
def test_bias_correction_makes_each_layers_mean_output_right(bits: int) -> None:
    """With one layer quantized its mean output over the calibration data, per channel, is that of the float network."""
    model, batches = _branching(), _images()
    engine = _engine(model, batches)
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
        network = _engine(model, batches, bias_correction).apply(_uniform(model, batches, f"weight={text}"))
        return float(F.cross_entropy(network(inputs), label).detach())

    best = loss("int2:channel:mse", True)
    assert best < loss("int2:channel:mse", False)
    assert best < loss("int2:channel:minmax", True)
    assert loss("int2:channel:mse:adaround", True) < best


def test_embedding_and_tied_weights() -> None:
    torch.manual_seed(0)
    model, batches = Tokens().eval(), [torch.randint(11, (4, 5)) for _ in range(2)]
    engine = _engine(model, batches)
    policy = _uniform(model, batches, "weight=int4:channel:mse,activation=int8:token:dynamic")
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
    model, batches = _branching(), _images()
    engine = _engine(model, batches)
    expected = engine.restore()(batches[0])
    found = engine.apply(_uniform(model, batches, f"activation={activation}"))(batches[0])
    difference = (found - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 0.25


def test_cache_is_used_counted_and_bounded() -> None:
    model, batches = _branching(), _images()
    engine = _engine(model, batches)
    four, eight = (_uniform(model, batches, f"weight=int{bits}:channel:mse") for bits in (4, 8))
    first = engine.apply(four)(batches[0])
    assert (engine.counts.hits, engine.counts.misses) == (0, 4)
    engine.apply(eight)
    again = engine.apply(four)(batches[0])
    assert (engine.counts.hits, engine.counts.misses) == (4, 8)
    assert torch.equal(first, again)
    assert 0 < engine.counts.bytes <= 2**20
    assert engine.statistics_bytes > 0
    tiny = _engine(model, batches, cache_bytes=300)
    assert torch.equal(tiny.apply(four)(batches[0]), first)
    assert tiny.counts.bytes <= 300


def test_other_layers_are_refused_by_name() -> None:
    model, batches = _branching(), _images()
    engine, policy = _engine(model, batches), dict(_uniform(model, batches, WEIGHT4))
    with pytest.raises(InputError, match="'other' is not in the network; layers: stem, shared"):
        engine.apply(Policy({"other": policy.pop("stem"), **policy}))
    with pytest.raises(InputError, match="'stem' is not in the policy"):
        engine.apply(Policy(policy))


def test_non_finite_weights_and_empty_calibration_are_refused() -> None:
    model, batches = _branching(), _images()
    layers = trace(model, batches[0])
    with pytest.raises(InputError, match="calibration split is empty"):
        PostTraining(model, layers, [], batches[0])
    model.get_submodule("head").get_parameter("weight").data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layer 'head': its weight \(with its batch norm folded in\) holds NaN or infinity"):
        PostTraining(model, layers, batches, batches[0])


def test_never_called_layers_stay_float() -> None:
    model, batches = _branching(), _images()
    model.add_module("unused", nn.Linear(3, 3))
    with pytest.warns(UserWarning, match="unused"):
        engine = _engine(model, batches)
    with pytest.warns(UserWarning, match="unused"):
        policy = _uniform(model, batches, "weight=int2:channel,activation=int2:tensor")
    network = engine.apply(policy)
    assert torch.equal(network.get_submodule("unused").get_parameter("weight"), model.get_submodule("unused").get_parameter("weight"))


def test_stochastic_rounding_is_seeded_by_layer_and_spec() -> None:
    model, batches = _branching(), _images()
    policy = _uniform(model, batches, "weight=int3:channel:stochastic")
    one, two = (_engine(model, batches).apply(policy)(batches[0]) for _ in range(2))
    assert torch.equal(one, two)
    spec = parse("int3:channel:stochastic")
    assert seeded("a", spec).initial_seed() != seeded("b", spec).initial_seed()


def test_adaround_within_a_policy_of_other_layers() -> None:
    """Second moments are those of the float network, whatever is applied when they are gathered."""
    model, batches = _branching(), _images()
    head = {"head": parse_layer_policy("weight=int3:channel:mse:adaround")}
    fresh = _engine(model, batches)
    alone = fresh.apply(Policy(dict(_uniform(model, batches, "weight=float")) | head)).get_submodule("head").get_parameter("weight").clone()
    engine = _engine(model, batches)
    engine.apply(_uniform(model, batches, "weight=int2:channel,activation=int2:tensor"))
    mixed = engine.apply(Policy(dict(_uniform(model, batches, "weight=int2:channel,activation=int2:tensor")) | head))
    assert torch.equal(mixed.get_submodule("head").get_parameter("weight"), alone)


def test_a_policy_applied_again_quantizes_no_weight_again_and_takes_one_forward_pass() -> None:
    model, batches = _branching(), _images()
    engine = _engine(model, batches)
    policies = [_uniform(model, batches, f"weight=int{bits}:channel:mse,activation=int8:tensor:mse") for bits in (4, 8)]
    for policy in policies:
        engine.apply(policy)
    made, calls = engine.counts.misses, []
    network = engine.apply(policies[0])
    for name in policies[0]:
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    network(batches[0])
    assert engine.counts.misses == made > 0
    assert sorted(calls) == sorted(layer.name for layer in trace(model, batches[0]) for _ in range(layer.calls))


def test_float_slots_are_untouched() -> None:
    model, batches = _branching(), _images()
    engine = _engine(model, batches)
    layers = dict(_uniform(model, batches, WEIGHT4))
    before = engine.restore().get_submodule("head").get_parameter("weight").clone()
    network = engine.apply(Policy({**layers, "head": LayerPolicy(FLOAT, FLOAT)}))
    assert torch.equal(network.get_submodule("head").get_parameter("weight"), before)


def test_computed_weights_are_refused() -> None:
    batches = [torch.rand(5, 4)]
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(InputError, match="layer '0': its weight is no parameter but computed in each call; fix it with"):
        PostTraining(model, trace(model, batches[0]), batches, batches[0])


def test_reestimated_ranges_follow_the_quantized_weights() -> None:
    model, batches = _branching(), _images()
    policy = _uniform(model, batches, "weight=int2:channel,activation=int8:tensor")
    ranges = {}
    for reestimate in (False, True):
        engine = PostTraining(model, trace(model, batches[0]), batches, batches[0], reestimate=reestimate)
        seen: list[Tensor] = []
        network = engine.apply(policy)
        network.get_submodule("head").register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        network(torch.cat(batches))
        found = engine.statistics["head"]
        ranges[reestimate] = float(seen[0].detach().abs().max()) / max(-found.low, found.high)
    assert ranges[False] <= 1.01
    assert ranges[True] != pytest.approx(ranges[False], rel=1e-3)


def test_equalisation_helps_a_depthwise_network_with_one_scale_per_tensor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.ReLU(), nn.Conv2d(12, 4, 1)).eval()
    factors = torch.logspace(-1, 1, 12)
    with torch.no_grad():
        model[0].weight *= factors[:, None, None, None]
        model[0].bias *= factors
        model[2].weight /= factors[:, None, None, None]
    batches = _images()
    errors = []
    for equalize in (False, True):
        engine = PostTraining(model, trace(model, batches[0]), batches, batches[0], equalize=equalize)
        network = engine.apply(_uniform(model, batches, "weight=int4:tensor:mse"))
        errors.append(float((network(batches[0]) - model(batches[0])).detach().square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_transformers_conv1d_layers() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model, batches = nn.Sequential(Conv1D(12, 6), nn.GELU(), Conv1D(5, 12)).eval(), [torch.rand(4, 7, 6) for _ in range(2)]
    engine = _engine(model, batches)
    for weight in ("int4:channel:mse", "int4:channel:mse:adaround", "int4:group4:affine"):
        network = engine.apply(_uniform(model, batches, f"weight={weight},activation=int8:token"))
        assert len(network.get_submodule("0").get_parameter("weight")[:, 0].unique()) <= 16
        error = (network(batches[0]) - model(batches[0])).abs().max() / model(batches[0]).abs().max()
        assert 0 < float(error.detach()) < 0.3


class Alone(nn.Module):
    """One example goes through a layer that batches never reach."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alone(x) if len(x) == 1 else x)


@pytest.mark.parametrize("activation", ["int4:tensor:mse", "int8:tensor:ema", "int4:token"])
def test_layer_that_no_calibration_batch_reaches_keeps_its_input_in_float(activation: str) -> None:
    network, batch = Alone(), torch.randn(8, 3)
    layers = trace(network, batch)
    with pytest.warns(LeftInFloatWarning, match="no calibration batch reaches alone: the input stays in float there"):
        engine = PostTraining(network, layers, [batch], batch)
    policy = Policy(dict.fromkeys(("alone", "head"), parse_layer_policy(f"{WEIGHT4},activation={activation}")))
    quantized = engine.apply(policy)
    assert quantized(batch).isfinite().all()
    x = torch.randn(1, 3)
    weight = fake_quantize(network.alone.weight.detach(), parse("int4:channel:mse"))
    reached = []
    quantized.head.register_forward_pre_hook(lambda module, args: reached.append(args[0]), prepend=True)
    quantized(x)
    torch.testing.assert_close(reached[0], F.linear(x, weight, network.alone.bias))
