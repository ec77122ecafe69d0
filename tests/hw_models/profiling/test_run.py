"""Profiling: what is planned, how it is timed, what a row is."""

import time

import pytest

from hw_models.measurements import Measurement, Mode, shape_only
from hw_models.profiling import run as profile
from hw_models.profiling.onnx import FP32, NBITS, S8S8, U8S8, U8U8, XNOR
from hw_models.profiling.run import Settings, measure, plan, timed
from quant_core.spec.layer import Layer

CONV = Layer("a.conv", "conv", 8, 16, (16, 8, 3, 3), (6, 6), (6, 6), 41472, (3, 3), (1, 1), (1, 1), bias=True, live_elements=5)
LINEAR = Layer("b.fc", "linear", 32, 10, (10, 32), (1,), (1,), 640, calls=2)


class Clock:
    """A process clock that stands still but for the calls it is told of."""

    def __init__(self, per_call: list[float]) -> None:
        self.now, self.per_call, self.calls = 0.0, per_call, 0

    def read(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += self.per_call[min(self.calls, len(self.per_call) - 1)]
        self.calls += 1


def test_every_distinct_shape_is_planned_once_in_every_mode() -> None:
    twin = Layer("z", "conv", 8, 16, (16, 8, 3, 3), (6, 6), (6, 6), 41472, (3, 3), (1, 1), (1, 1))
    idle = Layer("n", "linear", 5, 5, (5, 5), (), (), 0, calls=0)
    todo = plan((CONV, twin, LINEAR, idle), (), 1)
    assert [mode for layer, mode in todo if layer.kind == "conv"] == [FP32, U8S8, U8U8, S8S8, XNOR]
    assert [mode for layer, mode in todo if layer.kind == "linear"] == [FP32, U8S8, U8U8, S8S8, *NBITS, XNOR]
    assert {layer.name for layer, _ in todo} == {""}


def test_what_was_measured_before_is_not_planned_again_and_threads_leave_out_the_one_bit_kernel() -> None:
    done = [Measurement(shape_only(CONV), mode, 1.0, 0.0, 3) for mode in (FP32, S8S8)]
    assert [mode for _, mode in plan((CONV,), done, 1)] == [U8S8, U8U8, XNOR]
    assert [mode for _, mode in plan((CONV,), done, 2)] == [U8S8, U8U8]


def test_short_calls_are_timed_in_runs_of_two_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([5.0, 1e-4])
    monkeypatch.setattr(time, "process_time", clock.read)
    times = timed(clock.call, 7)
    assert times == pytest.approx([1e-4] * 7)
    assert clock.calls == 1 + 1 + 7 * 20  # warm-up, a first look, and seven runs of twenty


@pytest.mark.parametrize(("seconds", "repeats"), [(0.5, 4), (0.9, 3), (30.0, 3)])
def test_long_calls_are_timed_less_often(monkeypatch: pytest.MonkeyPatch, seconds: float, repeats: int) -> None:
    clock = Clock([seconds])
    monkeypatch.setattr(time, "process_time", clock.read)
    assert len(timed(clock.call, 10)) == repeats


def test_a_row_is_the_least_time_per_thread_and_the_spread_of_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([1.0, 0.004, 0.004, 0.008, 0.006, 0.006, 0.012])
    monkeypatch.setattr(time, "process_time", clock.read)
    monkeypatch.setattr(profile, "runnable", lambda layer, mode, batch, threads: None if mode == XNOR else clock.call)
    rows = list(measure([(CONV, FP32), (CONV, XNOR)], Settings(threads=2, repeats=5)))
    assert rows == [Measurement(CONV, FP32, 0.002, 0.5, 5), None]


def test_a_real_layer_takes_time() -> None:
    (row,) = measure([(shape_only(LINEAR), Mode("float", "float"))], Settings(repeats=3))
    assert row is not None
    assert 0 < row.seconds < 1
    assert row.spread >= 0
    assert row.repeats == 3
