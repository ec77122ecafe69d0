"""The writer: patient with a store that is away or slow; a record that the store refuses is skipped and reported."""

import logging
import time
from typing import Any

import pytest

from search import tracking
from search.tracking.store import Store
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected

pytestmark = pytest.mark.usefixtures("hasty")


def test_a_store_that_is_away_costs_a_warning(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("patient", trials=20)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    apply, away = Store.apply, True

    def sometimes(self: Store, *arguments: Any) -> None:
        if away:
            raise ConnectionError("refused by https://bob:hunter2-word@mlflow.example")
        apply(self, *arguments)

    monkeypatch.setattr(Store, "apply", sometimes)
    with caplog.at_level(logging.WARNING, logger="bitfront.tracking"):
        drive(tracker, sweep)
        deadline = time.monotonic() + 30
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tracking.read(store_uri, "patient").trials == expected(sweep, "").trials  # the journal is read too
        away = False
        assert tracker.finish("finished")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert "does not answer (ConnectionError: refused by https://***@mlflow.example). The sweep goes on" in said[0]
    assert tracking.read(store_uri, "patient") == expected(sweep, tracker.run_id)
    assert tracker.blocked_s / 20 < 0.015


def test_a_slow_store_is_waited_for_while_lines_arrive(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep("slow", trials=12)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    send = Store._trial

    def slowly(self: Store, *arguments: Any) -> None:
        time.sleep(0.5)
        send(self, *arguments)

    monkeypatch.setattr(Store, "_trial", slowly)
    for trial in sweep.trials:
        tracker.record(trial)
    assert tracker.finish("finished", timeout_s=3.0)  # the whole batch takes twice as long
    assert len(children(store_uri, tracker.run_id)) == 12


def test_what_the_store_refuses_for_good_is_skipped_and_said(
    store_uri: str, make_sweep: MakeSweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("refused", trials=4)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    tracker.params({"seed": "another"})  # MLflow lets no parameter be changed
    drive(tracker, sweep)
    assert not tracker.finish("finished")
    assert "MLflow refused a record (params)" in caplog.text
    assert len(children(store_uri, tracker.run_id)) == 4
