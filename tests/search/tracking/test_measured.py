"""Times of policies in the record."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError
from search import tracking
from search.report.page import sweep_page
from search.tracking.codec import timings_of
from search.tracking.measured import write_timings

TIMING = {"runtime": "openvino", "version": "1", "threads": 1, "latency_s": 0.001, "float32_latency_s": 0.002, "ratio": 0.5}


def test_times_are_written_to_the_trials_run_read_back_and_shown(tmp_path: Path, sweep: Callable[..., str]) -> None:
    uri = sweep(tmp_path, name="timed", task="own_task:make", weight='["int8:channel"]', activation='["int8:tensor:ema"]', trials=1)
    assert tracking.read(uri, "timed").measured == {}
    write_timings(uri, "timed", None, {0: {"openvino.1": TIMING}})
    write_timings(uri, "timed", None, {0: {"openvino.1": TIMING | {"latency_s": 0.0005}, "onnxruntime.1": TIMING}})
    record = tracking.read(uri, "timed")
    assert [entry["latency_s"] for entry in record.measured[0]] == [0.001, 0.0005]
    assert "Measured in real runtimes" in sweep_page(record)
    with pytest.raises(BitfrontError, match=r"MLflow does not hold trial 7 yet; `bitfront repair timed`"):
        write_timings(uri, "timed", None, {7: {"openvino.1": TIMING}})


def test_what_is_no_time_is_left_out() -> None:
    for text in ("", "no json", "[1]", '{"trial": 1}', '{"trial": "x", "times": {}}', '{"trial": 1, "times": [3]}'):
        assert timings_of(text) == (-1, {})
    assert timings_of('{"trial": 3, "times": {"a": {"latency_s": "x"}, "b": 1}}') == (3, {})
