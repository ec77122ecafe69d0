"""The engine that applies policies: what it caches, how often it calibrates, what it refuses and what it leaves in float."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import FLOAT, InputError, LayerPolicy, Policy, parse, parse_layer_policy
from quant_core.codecs import Encoded
from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.export.stored import post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.parameters import seeded
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import LeftInFloatWarning
from tests.quant_core.ptq import engine_cases as CASES

WEIGHT4 = "weight=int4:channel:mse"


def test_float_policy_and_restore_give_the_float_network() -> None:
    model, batches = CASES.branching(), CASES.images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = CASES.engine(model, batches)
    expected = model(batches[0])
    quantized = engine.apply(CASES.uniform(model, batches, "weight=int4:channel:mse,activation=int8:tensor:mse"))
    assert (quantized(batches[0]) - expected).abs().max() > 1e-3
    torch.testing.assert_close(engine.restore()(batches[0]), expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cache_is_used_counted_and_bounded() -> None:
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches)
    four, eight = (CASES.uniform(model, batches, f"weight=int{bits}:channel:mse") for bits in (4, 8))
    first = engine.apply(four)(batches[0])
    assert (engine.counts.hits, engine.counts.misses) == (0, 4)
    engine.apply(eight)
    again = engine.apply(four)(batches[0])
    assert (engine.counts.hits, engine.counts.misses) == (4, 8)
    assert torch.equal(first, again)
    assert 0 < engine.counts.bytes <= 2**20
    assert engine.statistics_bytes > 0
    tiny = CASES.engine(model, batches, cache_bytes=300)
    assert torch.equal(tiny.apply(four)(batches[0]), first)
    assert tiny.counts.bytes <= 300


def test_other_layers_are_refused_by_name() -> None:
    model, batches = CASES.branching(), CASES.images()
    engine, policy = CASES.engine(model, batches), dict(CASES.uniform(model, batches, WEIGHT4))
    with pytest.raises(InputError, match="'other' is not in the network; layers: stem, shared"):
        engine.apply(Policy({"other": policy.pop("stem"), **policy}))
    with pytest.raises(InputError, match="'stem' is not in the policy"):
        engine.apply(Policy(policy))


def test_non_finite_weights_and_empty_calibration_are_refused() -> None:
    model, batches = CASES.branching(), CASES.images()
    layers = trace(model, batches[0])
    with pytest.raises(InputError, match="calibration split is empty"):
        PostTraining(model, layers, [], batches[0])
    model.get_submodule("head").get_parameter("weight").data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layer 'head': its weight \(with its batch norm folded in\) holds NaN or infinity"):
        PostTraining(model, layers, batches, batches[0])


def test_computed_weights_are_quantized_as_they_are_computed() -> None:
    batches = [torch.rand(5, 4)]
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))).eval()
    plain = nn.Sequential(nn.Linear(4, 3)).eval()
    with torch.no_grad():
        plain[0].weight.copy_(model[0].weight)
        plain[0].bias.copy_(model[0].bias)
    policy = Policy({"0": LayerPolicy(parse("int4:channel:mse"), parse("int8:tensor"))})
    outputs = [PostTraining(net, trace(net, batches[0]), batches, batches[0]).apply(policy)(batches[0]) for net in (model, plain)]
    assert torch.equal(*outputs)


def test_never_called_layers_stay_float() -> None:
    model, batches = CASES.branching(), CASES.images()
    model.add_module("unused", nn.Linear(3, 3))
    with pytest.warns(UserWarning, match="unused"):
        engine = CASES.engine(model, batches)
    with pytest.warns(UserWarning, match="unused"):
        policy = CASES.uniform(model, batches, "weight=int2:channel,activation=int2:tensor")
    network = engine.apply(policy)
    assert torch.equal(network.get_submodule("unused").get_parameter("weight"), model.get_submodule("unused").get_parameter("weight"))


def test_stochastic_rounding_is_seeded_by_layer_and_spec() -> None:
    model, batches = CASES.branching(), CASES.images()
    policy = CASES.uniform(model, batches, "weight=int3:channel:stochastic")
    one, two = (CASES.engine(model, batches).apply(policy)(batches[0]) for _ in range(2))
    assert torch.equal(one, two)
    spec = parse("int3:channel:stochastic")
    assert seeded("a", spec).initial_seed() != seeded("b", spec).initial_seed()


def test_adaround_within_a_policy_of_other_layers() -> None:
    """Second moments are those of the float network, whatever is applied when they are gathered."""
    model, batches = CASES.branching(), CASES.images()
    head = {"head": parse_layer_policy("weight=int3:channel:mse:adaround")}
    fresh = CASES.engine(model, batches)
    alone = (
        fresh.apply(Policy(dict(CASES.uniform(model, batches, "weight=float")) | head))
        .get_submodule("head")
        .get_parameter("weight")
        .clone()
    )
    engine = CASES.engine(model, batches)
    engine.apply(CASES.uniform(model, batches, "weight=int2:channel,activation=int2:tensor"))
    mixed = engine.apply(Policy(dict(CASES.uniform(model, batches, "weight=int2:channel,activation=int2:tensor")) | head))
    assert torch.equal(mixed.get_submodule("head").get_parameter("weight"), alone)


def test_a_policy_applied_again_quantizes_no_weight_again_and_takes_one_forward_pass() -> None:
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches)
    policies = [CASES.uniform(model, batches, f"weight=int{bits}:channel:mse,activation=int8:tensor:mse") for bits in (4, 8)]
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
    model, batches = CASES.branching(), CASES.images()
    engine = CASES.engine(model, batches)
    layers = dict(CASES.uniform(model, batches, WEIGHT4))
    before = engine.restore().get_submodule("head").get_parameter("weight").clone()
    network = engine.apply(Policy({**layers, "head": LayerPolicy(FLOAT, FLOAT)}))
    assert torch.equal(network.get_submodule("head").get_parameter("weight"), before)


def test_reestimated_ranges_follow_the_quantized_weights() -> None:
    model, batches = CASES.branching(), CASES.images()
    policy = CASES.uniform(model, batches, "weight=int2:channel,activation=int8:tensor")
    ranges = {}
    for reestimate in (False, True):
        engine = PostTraining(model, trace(model, batches[0]), batches, batches[0], reestimate=reestimate)
        seen: list[Tensor] = []
        network = engine.apply(policy)
        network.get_submodule("head").register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        network(torch.cat(batches))
        statistics = engine.statistics["head"]
        ranges[reestimate] = float(seen[0].detach().abs().max()) / max(-statistics.low, statistics.high)
    assert ranges[False] <= 1.01
    assert ranges[True] != pytest.approx(ranges[False], rel=1e-3)


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


@pytest.mark.parametrize("cache_bytes", [0, 300, 2**16, 2**30])
def test_calibration_takes_two_passes_whatever_the_cache_holds(cache_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the statistics, one for the second moments of all layers; no policy, order or cache adds one. `apply` calls no `apply`."""
    model, batches = CASES.branching(), CASES.images()
    run, apply = CASES.Branching.forward, PostTraining.apply
    sizes: list[int] = []
    depth: list[int] = [0]

    def counted_run(network: nn.Module, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return run(network, x)

    def counted_apply(engine: PostTraining, policy: Policy) -> nn.Module:
        depth.append(depth[-1] + 1)
        network = apply(engine, policy)
        depth.append(depth[-1] - 1)
        return network

    monkeypatch.setattr(CASES.Branching, "forward", counted_run)
    monkeypatch.setattr(PostTraining, "apply", counted_apply)
    engine = CASES.engine(model, batches, cache_bytes=cache_bytes)
    texts = [
        "int2:channel,activation=int4:tensor",
        "int4:channel:mse",
        "int3:channel:mse:adaround",
        "kmeans3:channel",
        "int4:group4:affine",
    ]
    policies = [CASES.uniform(model, batches, f"weight={text}") for text in texts]
    mixed = Policy({name: policies[i % len(policies)][name] for i, name in enumerate(policies[0])})
    for _ in range(2):
        for policy in (*policies, mixed):
            engine.apply(policy)
    assert sizes.count(len(batches[0])) == 2 * len(batches)
    assert engine.calibration_passes == 2
    assert engine.counts.misses == sum(len(policy) for policy in policies)
    assert max(depth) == 1
    assert engine.counts.bytes <= cache_bytes


@pytest.mark.parametrize("cache_bytes", [0, 300, 2**16, 2**30])
def test_the_cache_changes_no_bit(cache_bytes: int) -> None:
    model, batches = CASES.branching(), CASES.images()
    first, *others = (CASES.uniform(model, batches, f"weight={text}") for text in ("int3:channel:mse", "int2:channel", "int3:channel:mse"))
    expected = CASES.engine(model, batches, cache_bytes=2**30).apply(first)(batches[0])
    engine = CASES.engine(model, batches, cache_bytes=cache_bytes)
    for policy in (first, *others):
        network = engine.apply(policy)
    assert torch.equal(network(batches[0]), expected)


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_export_encodes_no_weight_again(cache_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = CASES.branching(), CASES.images()
    layers = trace(model, batches[0])
    encoded: list[QuantSpec] = []

    def counting(weight: Tensor, spec: QuantSpec, **options: Any) -> Encoded:
        encoded.append(spec)
        return encode(weight, spec, **options)

    monkeypatch.setattr("quant_core.ptq.engine.encode", counting)
    engine = CASES.engine(model, batches, cache_bytes=cache_bytes)
    policy = CASES.uniform(model, batches, "weight=int3:channel:mse,activation=int8:tensor")
    engine.apply(policy)
    stored = post_training(engine, model, layers, policy, batches[0]).stored
    assert len(encoded) == len(stored) == len(layers)


def test_one_weight_is_lent_for_a_block_whatever_is_applied() -> None:
    model, batches = CASES.branching(), CASES.images()
    engine, two = CASES.engine(model, batches), parse("int2:channel:mse")
    applied = CASES.uniform(model, batches, WEIGHT4)
    before = engine.apply(applied)(batches[0])
    for name in applied:
        expected = engine.apply(Policy(dict(applied) | {name: LayerPolicy(weight=two)}))(batches[0])
        engine.apply(applied)
        with engine.weight_as(name, two):
            assert torch.equal(engine.model(batches[0]), expected)
            assert not torch.equal(expected, before)
        assert torch.equal(engine.model(batches[0]), before)
    assert [layer.name for layer in engine.layers] == list(applied)


def test_codes_asked_for_under_a_quantized_input_come_with_the_same_bias() -> None:
    """The mean shift of a layer's output is that of its float input, also where `encoded` is the first to need it."""
    model, batches = CASES.branching(), CASES.images()
    policy = CASES.uniform(model, batches, "weight=int3:channel:mse,activation=int2:tensor")
    expected = CASES.engine(model, batches).apply(policy)(batches[0])
    engine = CASES.engine(model, batches)
    engine.apply(CASES.uniform(model, batches, "weight=int2:channel,activation=int2:tensor"))
    for name, layer in policy.items():
        engine.encoded(name, layer.weight)
    assert torch.equal(engine.apply(policy)(batches[0]), expected)
