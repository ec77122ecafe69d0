"""Times of whole networks, shared out to layers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hw_models.measurements import Measurement, Mode
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from search.exporters import profiling
from search.exporters.profiling import (
    MODES,
    Profiled,
    Reference,
    WholeTime,
    enough,
    float_alone,
    measure_modes,
    shared_out,
    unmeasured,
    whole_time,
)
from search.exporters.runtimes import runtime
from tests.search.exporters.test_runtimes import PACKAGES


def layer(name: str, macs: int = 100) -> Layer:
    return Layer(name, "linear", 10, 10, (10, 10), (1,), (1,), macs)


def test_an_operation_between_layers_counts_to_the_layer_behind_it_and_the_last_ones_to_the_last() -> None:
    nodes = [("", 1.0), ("a", 2.0), ("", 3.0), ("", 1.0), ("b", 2.0), ("", 1.0)]
    assert shared_out(nodes, [layer("a"), layer("b")], 10.0) == pytest.approx({"a": 3.0, "b": 7.0})


def test_shares_add_up_to_the_time_without_the_profiler_whose_cost_is_taken_off_every_operation() -> None:
    shares = shared_out([("a", 3.0), ("b", 5.0)], [layer("a"), layer("b")], 6.0)
    assert shares == pytest.approx({"a": 2.0, "b": 4.0})


def test_load_on_the_machine_while_the_profiler_runs_lengthens_all_operations_and_not_the_longest_alone() -> None:
    shares = shared_out([("a", 40.0), ("", 1.0), ("b", 61.0)], [layer("a"), layer("b")], 10.0)
    assert shares == pytest.approx({"a": 39 / 99 * 10, "b": 60 / 99 * 10}, rel=2e-2)


def test_a_layer_that_the_profiler_does_not_show_gets_a_part_by_its_macs() -> None:
    shares = shared_out([("a", 6.0)], [layer("a", 100), layer("b", 50)], 6.0)
    assert shares == pytest.approx({"a": 4.0, "b": 2.0})
    assert shared_out([("", 6.0)], [layer("a", 100), layer("b", 50)], 6.0) == pytest.approx({"a": 4.0, "b": 2.0})
    assert shared_out([], [layer("a", 100), layer("b", 50)], 6.0) == pytest.approx({"a": 4.0, "b": 2.0})  # without a profiler


def test_short_calls_are_repeated_more_often() -> None:
    assert (enough(30, 1e-5), enough(30, 1.0), enough(30, 0.01)) == (2000, 30, 150)


def profiled() -> Profiled:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(8, 32)
    layers = tuple(trace(model, x))
    return Profiled(model, layers, x, PostTraining(model, layers, [x], x))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "executorch", "litert", "torch"])
def test_equal_shapes_are_one_row_and_a_mode_that_is_refused_is_named(name: str) -> None:
    if name != "onnxruntime":
        pytest.importorskip(PACKAGES.get(name, name))
    rows: list[list[Measurement]] = []
    modes = (MODES[1], Mode("float", "int8"), MODES[4])
    refused = measure_modes(profiled(), runtime(name), modes, 1, 3, rows.append)
    assert refused == {}
    assert [[(row.mode, row.layer.out_channels) for row in measured] for measured in rows] == [[(mode, 32), (mode, 8)] for mode in modes]
    assert all(row.seconds > 0 and row.repeats >= 3 for measured in rows for row in measured)


def test_a_network_is_timed_by_the_quickest_calls_beside_those_of_the_float_network(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array(
        [[1.0, 2.0], [3.0, 2.5], [9.0, 8.0], [1.2, 9.0], [4.0, 2.2], [5.0, 7.0], [6.0, 7.0], [7.0, 7.0], [8.0, 7.0], [2.0, 7.0]]
    )
    monkeypatch.setattr(profiling, "timed", lambda *_arguments, **_options: rows)
    whole = whole_time(Path("a"), Reference(Path("float"), 0.8), runtime("onnxruntime"), torch.zeros(1, 2), 1, 4)
    assert (whole.seconds, whole.repeats) == (pytest.approx(0.8 * 1.1 / 2.1), 10)


def test_the_float_networks_time_of_an_earlier_run_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "whole_time", lambda _path, reference, *_rest: WholeTime(reference.seconds, 0.0, 3))
    monkeypatch.setattr(profiling, "least_time", lambda *_arguments: 7.0)
    for float_s, total in ((0.0, 7.0), (2.0, 2.0)):
        rows: list[Measurement] = []
        assert measure_modes(profiled(), runtime("onnxruntime"), MODES[:1], 1, 3, rows.extend, float_s) == {}
        assert sum(row.seconds * (2 if row.layer.out_channels == 32 else 1) for row in rows) == pytest.approx(total, rel=1e-3)


def images() -> Profiled:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6)).eval(), torch.rand(4, 3, 8, 8)
    layers = tuple(trace(model, x))
    return Profiled(model, layers, x, PostTraining(model, layers, [x], x))


def test_layers_that_a_runtime_does_not_quantize_stay_in_float_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    network, target, rows = images(), runtime("torch"), list[Measurement]()
    monkeypatch.setattr(profiling, "whole_time", lambda *_arguments: WholeTime(8.0, 0.0, 3))
    assert measure_modes(network, target, MODES[:2], 1, 3, rows.extend, 9.0) == {}
    assert [(row.layer.kind, row.mode) for row in rows] == [("conv", MODES[0]), ("linear", MODES[0]), ("linear", MODES[1])]
    conv = 9.0 * network.layers[0].macs / sum(layer.macs for layer in network.layers)
    assert rows[2].seconds == pytest.approx(8.0 - conv, rel=1e-5)  # the convolution takes what it takes in the float network
    assert unmeasured(network, target, rows, MODES[:2]) == []
    assert list(float_alone(network, target)) == ["0"]


def test_a_mode_in_which_a_runtime_runs_no_layer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network, target = profiled(), replace(runtime("onnxruntime"), refusal=lambda _layer, policy: "" if policy.weight.is_float else "no")
    monkeypatch.setattr(profiling, "whole_time", lambda *_arguments: WholeTime(7.0, 0.0, 3))
    rows = list[Measurement]()
    refused = measure_modes(network, target, MODES[:2], 1, 3, rows.extend, 9.0)
    assert refused == {"int8/int8": "layer '0': no (and 2 more layers)"}
    assert {row.mode for row in rows} == {MODES[0]}
    assert unmeasured(network, target, rows, MODES[:2]) == [MODES[1]]
    assert float_alone(network, target) == dict.fromkeys(("0", "2", "4"), "no")
