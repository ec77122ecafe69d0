"""The load of the machine, recorded beside a sweep."""

import threading

import pytest

from search import tracking
from search.tracking.client import MlflowClient
from tests.search.tracking.cases import PARAMS, MakeSweep, drive

pytestmark = pytest.mark.usefixtures("hasty")


def test_the_machines_load_goes_the_same_way(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.tracking.machine import sampled

    sweep = make_sweep("loaded", trials=3)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    measure, taken = tracker.measure, threading.Semaphore(0)
    monkeypatch.setattr(tracker, "measure", lambda figures: (measure(figures), taken.release()))
    with sampled(tracker, 0.05):
        drive(tracker, sweep)
        for _ in range(3):
            taken.acquire()
    assert tracker.finish("finished")
    client = MlflowClient(store_uri)
    figures = client.get_run(tracker.run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes", "system/disk_usage_percentage"} <= set(figures)
    assert 0 < figures["system/system_memory_usage_percentage"] < 100
    memory = client.get_metric_history(tracker.run_id, "system/system_memory_usage_megabytes")
    assert len(memory) >= 3
    assert memory[-1].step == 3  # so many trials had ended
    assert [row.name for row in threading.enumerate() if row.name == "bitfront-machine"] == []


def test_the_machines_load_is_left_alone_unless_asked_for(store_uri: str, make_sweep: MakeSweep) -> None:
    from search.tracking.machine import sampled

    sweep = make_sweep("quiet", trials=2)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    with sampled(tracker, 0.0):
        drive(tracker, sweep)
    assert tracker.finish("finished")
    assert not [name for name in MlflowClient(store_uri).get_run(tracker.run_id).data.metrics if name.startswith("system/")]
