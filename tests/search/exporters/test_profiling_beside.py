"""Policies in which layers stand beside layers of other codes."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from hw_models.measurements import Measurement, Mode, shape_key, shape_only
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from search.exporters import profiling_beside
from search.exporters.profiling import MODES, Profiled
from search.exporters.profiling_beside import followers_of, left, measure_beside, mode_beside, patterns
from search.exporters.runtimes import runtime

CHAIN = {f"l{n}": (f"l{n + 1}",) for n in range(6)}
LAYERS = [Layer(f"l{n}", "conv", n + 1, 4, (4, n + 1, 1, 1), (8, 8), (8, 8), 256 * (n + 1), (1, 1), (1, 1), (1, 1)) for n in range(7)]


def test_every_layer_stands_beside_others_on_one_side_at_a_time_in_both_codes() -> None:
    modes = [mode_beside(layer.name, pattern, CHAIN) for pattern in patterns(LAYERS, CHAIN) for layer in LAYERS[1:-1]]
    beside = Counter((mode.activation, mode.before, mode.behind) for mode in modes if mode)
    assert beside == {("int8", "float", ""): 5, ("int8", "", "float"): 5, ("float", "int8", ""): 5, ("float", "", "int8"): 5}


def test_a_layer_whose_neighbours_are_other_on_both_sides_or_on_none_is_not_measured_there() -> None:
    integers, floats = MODES[1], MODES[0]
    assert mode_beside("l1", {"l0": floats, "l1": integers, "l2": floats}, {"l0": ("l1",), "l1": ("l2",)}) is None
    assert mode_beside("l1", {"l0": integers, "l1": integers, "l2": integers}, {"l0": ("l1",), "l1": ("l2",)}) is None
    assert mode_beside("l1", {"l1": integers, "l2": floats}, {"l1": ("l2",)}) == Mode("int8", "int8", behind="float")


def test_patterns_that_were_measured_are_left_out() -> None:
    done = [
        Measurement(shape_only(layer), mode, 1.0, 0.1, 3)
        for pattern in list(patterns(LAYERS, CHAIN))[:3]
        for layer in LAYERS
        if (mode := mode_beside(layer.name, pattern, CHAIN))
    ]
    assert left(LAYERS, CHAIN, done) == list(patterns(LAYERS, CHAIN))[3:]
    assert left(LAYERS, {}, []) == []


def convolutions() -> Profiled:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    x = torch.rand(2, 3, 8, 8)
    layers = tuple(trace(model, x))
    return Profiled(model, layers, x, PostTraining(model, layers, [x], x))


def test_a_chain_of_convolutions_is_measured_in_onnxruntime_and_in_no_other_runtime() -> None:
    network, target = convolutions(), runtime("onnxruntime")
    followed = followers_of(network, target.beside)
    assert followed == {"0": ("2",), "2": ("4",)}
    assert followers_of(network, frozenset({"linear"})) == {}
    rows: list[Measurement] = []
    measure_beside(network, target, followed, left(network.layers, followed, []), 1, 3, rows.extend, 1.0)
    assert left(network.layers, followed, rows) == []
    middle = shape_key(network.layers[1])
    kernels = {(row.mode.activation, row.mode.before, row.mode.behind): row.kernel for row in rows if shape_key(row.layer) == middle}
    assert kernels == {
        ("int8", "float", ""): "int8",
        ("int8", "", "float"): "float32",
        ("float", "int8", ""): "float32",
        ("float", "", "int8"): "float32",
    }


def test_the_pattern_has_four_shifts() -> None:
    assert len(list(patterns(LAYERS, CHAIN))) == profiling_beside.PERIOD


def test_where_nothing_is_to_do_nothing_is_written_or_timed() -> None:
    nothing: Any = None
    measure_beside(nothing, nothing, {}, [], 1, 3, lambda _rows: pytest.fail("measured"))
