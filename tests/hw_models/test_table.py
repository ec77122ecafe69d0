from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_models.loading import device_names, load_device, parse_device
from hw_models.table import CostTable, build_table, cost_policy
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

PAIRS = tuple(LayerPolicy(parse(f"int{w}:channel"), parse(f"int{a}")) for w in range(1, 9) for a in range(1, 9))
MODELLED = device_names()


def legal_table(name: str, layers: tuple[Layer, ...]) -> CostTable:
    device = load_device(name)
    return build_table(device, layers, {layer.name: tuple(pair for pair in PAIRS if device.legal(layer).allows(pair)) for layer in layers})


def slow_cost(table: CostTable, row: list[int]) -> dict[str, float]:
    """Return the cost of one policy by a plain loop over layers."""
    totals = {}
    for metric, values in table.values.items():
        picked = [float(values[position, k]) for position, k in enumerate(row)]
        totals[metric] = max(picked) if metric in table.peak else reduce(lambda total, value: total + value, picked)
    return totals


@pytest.mark.parametrize("name", MODELLED)
@pytest.mark.parametrize("count", [1, 5000])
def test_the_batch_equals_the_slow_sum_bit_for_bit(name: str, count: int, mobilenet: tuple[Layer, ...]) -> None:
    table = legal_table(name, mobilenet)
    index = np.random.default_rng(1).integers([len(choices) for choices in table.choices], size=(count, len(mobilenet)))
    cost = table.cost(index)
    for n in {0, count // 2, count - 1}:
        slow = slow_cost(table, index[n].tolist())
        assert {metric: float(values[n]) for metric, values in cost.items()} == slow
    policy = {layer.name: table.choices[position][index[0, position]] for position, layer in enumerate(mobilenet)}
    assert table.totals(policy) == slow_cost(table, index[0].tolist())


@pytest.mark.parametrize("name", MODELLED)
def test_more_bits_are_never_cheaper(name: str, mobilenet: tuple[Layer, ...]) -> None:
    table = legal_table(name, mobilenet)
    for position, choices in enumerate(table.choices):
        bits = np.array([(choice.weight.bits, choice.activation.bits) for choice in choices])
        wider = (bits[None, :, :] >= bits[:, None, :]).all(axis=2)  # [i, j]: j has at least the bits of i
        for metric, values in table.values.items():
            row = values[position, : len(choices)]
            cheaper = wider & (row[None, :] < row[:, None] * (1 - 1e-12))
            assert not cheaper.any(), (metric, mobilenet[position], [str(choices[i]) for i in np.argwhere(cheaper)[0]])


def test_every_device_gives_the_counts_and_says_what_else(mobilenet: tuple[Layer, ...]) -> None:
    given = {
        name: set(legal_table(name, mobilenet).metrics) - {"weight_bytes", "peak_activation_bytes", "macs", "bit_ops"} for name in MODELLED
    }
    assert given["counts"] == set()
    assert given["horowitz-45nm"] == {"energy_j"}
    assert given["mpic"] == {"latency_s", "energy_j"}
    assert all("latency_s" in metrics for name, metrics in given.items() if name not in ("counts", "horowitz-45nm"))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_any_integer_index_will_do(dtype: type[np.integer], mobilenet: tuple[Layer, ...]) -> None:
    table = legal_table("counts", mobilenet)
    index = np.random.default_rng(2).integers(64, size=(50, 53))
    expected = table.cost(index)["bit_ops"]
    assert (table.cost(index.astype(dtype))["bit_ops"] == expected).all()
    assert (table.cost(np.asfortranarray(index))["bit_ops"] == expected).all()


def conv(name: str, **changes: object) -> Layer:
    layer = Layer(name, "conv", 4, 8, (8, 4, 3, 3), (6, 6), (6, 6), 36 * 8 * 4 * 9, (3, 3), (1, 1), (1, 1))
    return replace(layer, **changes)  # type: ignore[arg-type]


def one(layer: Layer, weight: str, activation: str, device: str = "counts") -> dict[str, float]:
    return cost_policy(load_device(device), (layer,), {layer.name: LayerPolicy(parse(weight), parse(activation))})


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        ("int4:channel", 288 * 4 + 8 * 32),
        ("int4:group16:fp16", 288 * 4 + 8 * 3 * 16),
        ("int4:vector16", 288 * 4 + 8 * 3 * 4 + 8 * 32),
        ("kmeans3:tensor", 288 * 3 + 8 * 32),
        ("ternary:twn", 288 * 2 + 32),
        ("mxfp4", 288 * 4 + 8 * 2 * 8),
        ("float", 288 * 32),
    ],
)
def test_weight_bytes_count_every_scale_codebook_and_exponent(weight: str, bits: int) -> None:
    assert one(conv("a"), weight, "int8")["weight_bytes"] == bits / 8


def test_peak_memory_counts_ends_residuals_and_depthwise_in_place() -> None:
    ends = 36 * 4 + 36 * 8
    assert one(conv("a"), "int4", "int8")["peak_activation_bytes"] == ends
    assert one(conv("a"), "int4", "int4")["peak_activation_bytes"] == ends / 2
    assert one(conv("a", live_elements=100), "int4", "int8")["peak_activation_bytes"] == ends + 100
    depthwise = conv("a", kind="depthwise", in_channels=8, groups=8, weight_shape=(8, 1, 3, 3))
    assert one(depthwise, "int4", "int8")["peak_activation_bytes"] == 36 * 8
    assert one(conv("a"), "int4", "mxfp4")["peak_activation_bytes"] == ends * 4.25 / 8
    embedding = Layer("e", "embedding", 16, 16, (100, 16), (5,), (5,), 0)
    assert one(embedding, "int8:channel", "float")["peak_activation_bytes"] == 5 * 16


def test_peak_is_a_max_and_the_rest_are_sums() -> None:
    layers = (conv("a"), conv("b", out_channels=16, weight_shape=(16, 4, 3, 3), macs=36 * 16 * 4 * 9))
    policy = dict.fromkeys(("a", "b"), LayerPolicy(parse("int8:tensor"), parse("int8")))
    total = cost_policy(load_device("counts"), layers, policy)
    assert total["peak_activation_bytes"] == 36 * 4 + 36 * 16
    assert total["macs"] == 36 * 24 * 4 * 9
    assert total["bit_ops"] == 64 * total["macs"]
    assert total["weight_bytes"] == 288 + 576 + 8


def test_a_layer_that_is_never_called_costs_its_bytes_and_may_take_anything() -> None:
    unused = conv("u", calls=0, macs=0)
    cost = one(unused, "float", "float", "vu9p-bitserial")
    assert (cost["weight_bytes"], cost["peak_activation_bytes"], cost["macs"]) == (288 * 4, 0.0, 0.0)
    both = cost_policy(load_device("vu9p-bitserial"), (conv("a"), unused), {"a": PAIRS[0], "u": LayerPolicy()})
    assert both["latency_s"] == one(conv("a"), "int1", "int1", "vu9p-bitserial")["latency_s"] > 0


def test_a_shared_weight_counts_its_bytes_once_and_its_work_twice() -> None:
    layers = (conv("a"), conv("b", tied_to="a"))
    policy = dict.fromkeys(("a", "b"), PAIRS[-1])
    both, alone = cost_policy(load_device("mpic"), layers, policy), one(conv("a"), "int8:channel", "int8", "mpic")
    assert both["weight_bytes"] == alone["weight_bytes"]
    assert both["latency_s"] == 2 * alone["latency_s"]


def test_a_layer_called_twice_works_twice() -> None:
    for device in ("mpic", "vu9p-bitserial", "a100", "horowitz-45nm"):
        twice, alone = one(conv("a", calls=2, macs=2 * 36 * 8 * 4 * 9), "int8", "int8", device), one(conv("a"), "int8", "int8", device)
        for metric in {"latency_s", "energy_j"} & set(alone):
            assert twice[metric] == pytest.approx(2 * alone[metric], rel=1e-12)
        assert twice["peak_activation_bytes"] == alone["peak_activation_bytes"]


def test_limits_are_the_devices_constraints_and_the_worst_layer_is_named() -> None:
    device = load_device("stm32h743-tinyengine")
    big = conv("big", in_size=(300, 300), out_size=(300, 300))
    policy = dict.fromkeys(("a", "big"), PAIRS[-1])
    table = build_table(device, (conv("a"), big), {name: (choice,) for name, choice in policy.items()})
    assert table.limits == {"peak_activation_bytes": 524288.0, "weight_bytes": 2097152.0}
    assert table.excess(policy) == ("peak_activation_bytes 1080000 is over the 524288 of stm32h743-tinyengine; layer 'big' needs most.",)
    assert build_table(device, (conv("a"),), {"a": PAIRS[-1:]}).excess({"a": PAIRS[-1]}) == ()


def test_explain_splits_time_and_energy(mobilenet: tuple[Layer, ...]) -> None:
    table = legal_table("vu9p-bitserial", mobilenet)
    policy = {layer.name: PAIRS[7] for layer in mobilenet}  # 1-bit weights, 8-bit activations
    rows = table.explain(policy)
    assert [row["layer"] for row in rows] == [layer.name for layer in mobilenet]
    assert all(row["compute_s"] + row["stall_s"] == pytest.approx(row["latency_s"], rel=1e-12) for row in rows)
    assert any(row["stall_s"] > 0 for row in rows)
    assert all(row["latency_s"] >= row["memory_s"] for row in rows)
    energy = legal_table("horowitz-45nm", mobilenet).explain(policy)
    assert set(energy[0]["energy_parts_j"]) == {"mac", "sram_1mb", "dram"}
    assert all(sum(row["energy_parts_j"].values()) == pytest.approx(row["energy_j"], rel=1e-12) for row in energy)


@given(st.integers(0, 7), st.integers(0, 7))
def test_index_finds_the_choice(w: int, a: int) -> None:
    table = build_table(load_device("counts"), (conv("x"),), {"x": PAIRS})
    assert table.index({"x": PAIRS[8 * w + a]}).tolist() == [8 * w + a]


def test_wrong_indices_and_choices_are_refused() -> None:
    table = build_table(load_device("counts"), (conv("x"),), {"x": PAIRS[:2]})
    with pytest.raises(InputError, match=r"index array of shape \(3,\) given; \[N, 1\] is needed"):
        table.cost(np.zeros(3, dtype=np.int64))
    with pytest.raises(
        InputError, match="layer 'x': weight=int8:channel,activation=int8:tensor is not in this table; it holds weight=int1"
    ):
        table.index({"x": PAIRS[-1]})
    with pytest.raises(InputError, match="no choices given for layers x"):
        build_table(load_device("counts"), (conv("x"),), {})


def test_a_long_list_of_faults_is_cut_short(mobilenet: tuple[Layer, ...]) -> None:
    with pytest.raises(
        InputError, match=r"layer '0' \(conv\): mpic cannot run weight=float,activation=float; legal: weights int2"
    ) as caught:
        cost_policy(load_device("mpic"), mobilenet, {layer.name: LayerPolicy() for layer in mobilenet})
    assert str(caught.value).splitlines()[-1] == "... and 47 more layers"


CONV = Layer("a", "conv", 4, 8, (8, 4, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 4 * 9, (3, 3), (1, 1), (1, 1))


DEPTHWISE = Layer("d", "depthwise", 8, 8, (8, 1, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 9, (3, 3), (1, 1), (1, 1), groups=8)


def choice(weight: str, activation: str) -> LayerPolicy:
    return LayerPolicy(parse(weight), parse(activation))


def test_what_cannot_run_is_an_error_that_names_the_layer_and_what_is_legal(toy: str) -> None:
    device = parse_device(toy)
    with pytest.raises(
        InputError, match=r"layer 'a' \(conv\): toy cannot run weight=int1:.*legal: weights int2, int4, int8, int3, int5-7 \(sym"
    ):
        cost_policy(device, (CONV,), {"a": choice("int1:channel", "int8")})
    with pytest.raises(InputError, match=r"layer 'd' \(depthwise\).*only in the pairs int8/int4, int8/int8"):
        cost_policy(device, (CONV, DEPTHWISE), {"a": choice("int4", "int8"), "d": choice("int4", "int8")})
    embedding = Layer("e", "embedding", 8, 8, (100, 8), (5,), (5,), 0)
    with pytest.raises(InputError, match=r"layer 'e' .*legal: nothing: the device does not run layers of this kind"):
        cost_policy(device, (embedding,), {"e": choice("int4", "float")})


def test_a_policy_without_a_layer_is_refused(toy: str) -> None:
    with pytest.raises(InputError, match="the policy has no entry for a; it names b"):
        cost_policy(parse_device(toy), (CONV,), {"b": choice("int4", "int8")})
