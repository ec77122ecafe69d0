"""What kernels share, and what layers take more beside others, in the table of a measured device."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hw_models.loading import load_device
from hw_models.measurements import Measurement, Mode, shape_only
from hw_models.models.neighbours import pooled
from hw_models.profiling.device import write
from hw_models.profiling.host import host
from hw_models.table import CostTable, build_table
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, parse_layer_policy

FLOATS, INTEGERS = Mode("float", "float"), Mode("int8", "int8")
CHOICES = tuple(map(parse_layer_policy, ("weight=float", "weight=int8:channel,activation=int8:tensor")))


def conv(name: str, channels: int, calls: int = 1) -> Layer:
    macs = calls * channels * channels * 9 * 64
    return Layer(name, "conv", channels, channels, (channels, channels, 3, 3), (8, 8), (8, 8), macs, (3, 3), (1, 1), (1, 1), calls=calls)


LAYERS = (conv("a", 4), conv("b", 8), conv("c", 16, 2))
TIMES = {
    "a": {FLOATS: 8.0, INTEGERS: 4.0, replace(INTEGERS, behind="float"): 7.0, replace(FLOATS, behind="int8"): 8.5},
    "b": {FLOATS: 6.0, INTEGERS: 3.0, replace(FLOATS, before="int8"): 6.2, replace(INTEGERS, before="float"): 3.1},
    "c": {FLOATS: 5.0, INTEGERS: 2.0, replace(FLOATS, before="int8"): 5.4},
}


def table(folder: Path, followers: dict[str, tuple[str, ...]]) -> CostTable:
    rows = [Measurement(shape_only(layer), mode, seconds, 0.1, 3) for layer in LAYERS for mode, seconds in TIMES[layer.name].items()]
    device = load_device(write("x", folder, host(1, "onnxruntime 1"), 1, rows, followers))
    return build_table(device, LAYERS, {layer.name: CHOICES for layer in LAYERS})


def seconds(costs: CostTable, *chosen: int) -> float:
    policy: dict[str, LayerPolicy] = {layer.name: CHOICES[k] for layer, k in zip(LAYERS, chosen, strict=True)}
    return costs.totals(policy)["latency_s"]


def test_layers_of_quantized_inputs_take_more_beside_others(tmp_path: Path) -> None:
    costs = table(tmp_path, {"a": ("b",)})
    assert [seconds(costs, k, k, k) for k in (0, 1)] == [8 + 6 + 10, 4 + 3 + 4]  # as the uniform policies were measured
    assert seconds(costs, 1, 0, 0) == pytest.approx(7.0 + 6.2 + 10)
    assert seconds(costs, 0, 1, 0) == pytest.approx(8.5 + 3.1 + 10)
    assert seconds(costs, 0, 0, 1) == pytest.approx(8 + 6 + 4)  # nothing says that c follows b
    alone = table(tmp_path / "alone", {})
    assert (alone.pairs, seconds(alone, 1, 0, 0)) == ((), 4 + 6 + 10)


def test_followers_share_what_the_layer_before_them_takes_and_calls_multiply_their_own(tmp_path: Path) -> None:
    costs = table(tmp_path, {"a": ("b", "c"), "elsewhere": ("b",), "c": ("gone",)})
    assert seconds(costs, 1, 0, 1) == pytest.approx(4 + 3 / 2 + 6.2 + 4)
    assert seconds(costs, 1, 1, 0) == pytest.approx(4 + 3 / 2 + 3 + 2 * 5.4)


def test_the_rows_of_an_explanation_and_batches_add_up_to_the_totals(tmp_path: Path) -> None:
    costs = table(tmp_path, {"a": ("b",), "b": ("c",)})
    points = np.stack([grid.ravel() for grid in np.indices((2, 2, 2))], axis=1)
    many = costs.cost(np.tile(points, (9, 1)))["latency_s"][:8]
    for point, total in zip(points, many, strict=True):
        policy = {layer.name: CHOICES[k] for layer, k in zip(LAYERS, point, strict=True)}
        assert seconds(costs, *point) == pytest.approx(total, rel=1e-12)
        assert sum(row["latency_s"] for row in costs.explain(policy)) == pytest.approx(total, rel=1e-12)


def test_followers_of_networks_that_were_measured_before_stay(tmp_path: Path) -> None:
    table(tmp_path, {"a": ("b",)})
    costs = table(tmp_path, {"b": ("c",)})
    assert [(pair.first, pair.second) for pair in costs.pairs] == [(0, 1), (1, 2)]


def test_modes_of_one_kernel_have_one_time() -> None:
    shape = shape_only(LAYERS[0])
    rows = [Measurement(shape, Mode(weight, "int8"), time, 0.1, 3, "int8") for weight, time in (("int8", 4.0), ("int4", 2.0))]
    rows += [Measurement(shape, Mode("int8", "float"), 9.0, 0.1, 3, "float32"), Measurement(shape, FLOATS, 7.0, 0.1, 3, "float32")]
    rows += [
        Measurement(shape, Mode("int4", "float"), 5.0, 0.1, 3, "4-bit weights"),
        Measurement(shape, Mode("int2", "float"), 1.0, 0.1, 3),
    ]
    assert [row.seconds for row in pooled(rows)] == [3.0, 3.0, 8.0, 8.0, 5.0, 1.0]
