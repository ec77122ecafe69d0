"""The process dies between any two requests to MLflow: after the next finish the store says what the record says."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from search.records.front import front_members, knee_number
from search.records.record import SweepRecord
from search.tracking import names, opening
from search.tracking.codec import from_tags, sweep_to_json, to_tags
from search.tracking.lines import decode
from search.tracking.opening import continued
from search.tracking.reading import Row
from search.tracking.spool import Spool
from search.tracking.store import Store
from search.tracking.tracker import Tracker
from tests.search.tracking.cases import MakeSweep, drive
from tests.search.tracking.fake_mlflow import FakeClient, Killed

TRIALS = 5


class SameThread:
    """A writer that sends when it is woken, in small batches."""

    def __init__(self, spool: Spool, store: Store) -> None:
        self._spool, self._store, self.outage, self.mended = spool, store, None, 0

    def start(self) -> None:
        """Send nothing yet."""

    def wake(self) -> None:
        while (batch := self._spool.unsent(3))[0]:
            self._store.apply(batch[0], self._spool.files)
            self._spool.mark_sent(batch[1])

    def close(self, _timeout_s: float) -> bool:
        self.wake()
        self.mended = self._store.mended
        return True


@pytest.fixture(autouse=True)
def in_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "Writer", SameThread)
    monkeypatch.setattr("search.tracking.spool.os.fsync", lambda _handle: None)
    monkeypatch.setattr("quant_core.util.files.os.fsync", lambda _handle: None)


def opened(client: FakeClient, folder: Path, run_id: str) -> Tracker:
    rows = [Row(run, "1", "bitfront", tags) for run, tags in client.tags.items()]
    parent = next(row for row in rows if row.run_id == run_id)
    journal = Spool(folder, run_id)
    journal.acquire()
    return continued(client, parent, [row for row in rows if row is not parent], journal)  # type: ignore[arg-type]


def begun(client: FakeClient, sweep: SweepRecord) -> str:
    header = sweep_to_json(replace(sweep, trials=()))
    client.status["f" * 32] = "RUNNING"
    client.tags["f" * 32] |= {names.SWEEP: sweep.name, names.KIND: "sweep", names.STATUS: "running"} | to_tags(names.RECORD, header)
    return "f" * 32


def check(client: FakeClient, sweep: SweepRecord, run_id: str, status: str) -> None:
    """Compare everything that the store shows with the record."""
    children = {int(tags[names.TRIAL]): run for run, tags in client.tags.items() if tags.get(names.PARENT) == run_id}
    assert len(children) == len(client.tags) - 1 == len(sweep.trials)
    members = front_members(sweep)
    front, knee = {trial.number for trial in members}, knee_number(members, sweep.objectives)
    assert {number for number, run in children.items() if client.tags[run][names.PARETO] == "true"} == front
    assert {number for number, run in children.items() if client.tags[run][names.KNEE] == "true"} == {knee}
    assert {client.status[run] for run in children.values()} <= {"FINISHED", "FAILED"}
    for trial in sweep.trials:
        run = children[trial.number]
        stored = {metric[0]: metric[1] for metric in client.metrics[run]}
        assert trial.result.metrics.items() <= stored.items()
        assert json.loads(client.files[run]["policy/policy.json"]) == trial.policy.to_json()
    assert from_tags(client.tags[run_id], names.FRONT) == {"front": sorted(front), "knee": knee}
    assert client.tags[run_id][names.STATUS] == status


def requests_of_a_sweep(sweep: SweepRecord, folder: Path) -> int:
    client = FakeClient()
    whole = opened(client, folder, begun(client, sweep))
    drive(whole, sweep)
    whole.finish("finished")
    check(client, sweep, whole.run_id, "finished")
    return client.requests


def kills(requests: int) -> Iterator[tuple[int, bool]]:
    for request in range(1, requests + 1):
        yield request, False
        yield request, True


def test_a_writer_that_dies_at_any_request_leaves_a_store_that_the_next_one_sets_right(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep("killed", trials=TRIALS, seed=4)
    requests = requests_of_a_sweep(sweep, tmp_path / "whole")
    assert requests > 5 * TRIALS
    for request, late in kills(requests):
        client, folder = FakeClient(request, late), tmp_path / f"{request}-{late}"
        run_id = begun(client, sweep)
        dead = opened(client, folder, run_id)
        with suppress(Killed):
            drive(dead, sweep)
            dead.finish("finished")
        dead._spool.release(remove=False)
        again = opened(client, folder, run_id)
        kept = again.sweep.trials
        again.finish("stopped")
        check(client, replace(sweep, trials=kept), run_id, "stopped") if kept else None
        resumed = opened(client, folder, run_id)
        for trial in sweep.trials[len(kept) :]:
            resumed.record(trial)
        resumed.finish("finished")
        check(client, sweep, run_id, "finished")
        assert not list(folder.iterdir())


def test_tags_that_an_older_version_left_are_set_right_by_the_next_finish(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep("stale", trials=TRIALS, seed=4)
    client = FakeClient()
    first = opened(client, tmp_path, begun(client, sweep))
    drive(first, sweep)
    first.finish("finished")
    runs = [run for run, tags in client.tags.items() if names.TRIAL in tags]
    for run in runs[:3]:
        client.tags[run] |= {names.PARETO: "true", names.KNEE: "true"}
    client.tags[runs[3]] |= {names.PARETO: "false", names.KNEE: "false"}
    again = opened(client, tmp_path, first.run_id)
    again.finish("finished")
    check(client, sweep, first.run_id, "finished")
    assert again.mended >= 2


def test_a_trial_costs_the_same_however_many_went_before(make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: requests to MLflow, and lines of the journal that are read."""
    lines = []
    monkeypatch.setattr("search.tracking.spool.decode", lambda raw: lines.append(1) or decode(raw))
    sweep = make_sweep("long", trials=240, seed=1)
    client = FakeClient()
    whole = opened(client, tmp_path, begun(client, sweep))
    for trial in sweep.trials[:40]:
        whole.record(trial)
    costs = []
    for part in (sweep.trials[40:140], sweep.trials[140:240]):  # without moves of the front, which get rarer
        requests, read = client.requests, len(lines)
        for trial in part:
            whole.record(trial)
        costs.append((client.requests - requests, len(lines) - read))
    assert costs[0] == costs[1]
    assert costs[0][0] <= 5 * 100
