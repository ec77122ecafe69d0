"""Sweeps into MLflow and back: exact, once only, patient with a store that is away."""

import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError, InputError
from search import tracking
from search.problem.pareto import Archive
from search.records.front import front_members, knee_number
from search.records.record import SweepRecord, TrialRecord
from search.tracking import names, reading, writer
from search.tracking.client import MlflowClient, connect, reported
from search.tracking.spool import Spool
from search.tracking.store import Store, policy_params

MakeSweep = Callable[..., SweepRecord]
ROOT = Path(__file__).parent.parent.parent
PARAMS = {"searcher": "random", "device": "vu9p", "task": "digits", "seed": 3}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a second become waits of a moment."""
    monkeypatch.setattr(writer, "PATIENCE_S", (0.05,))
    monkeypatch.setattr(writer, "GATHER_S", 0.01)


def drive(tracker: "tracking.Tracker", sweep: SweepRecord, trials: tuple[TrialRecord, ...] | None = None) -> Archive:
    """Record trials the way a sweep does."""
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    for trial in sweep.trials if trials is None else trials:
        tracker.record(trial)
        figures = {**trial.result.cost, **trial.result.metrics}
        if trial.result.ok and archive.add(trial.number, [figures[name] for name in sweep.objectives]):
            tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)
    return archive


def run(uri: str, sweep: SweepRecord, experiment: str = "bitfront") -> tuple[str, Archive]:
    tracker = tracking.start(uri, experiment, sweep, PARAMS)
    archive = drive(tracker, sweep)
    assert tracker.finish("finished")
    return tracker.run_id, archive


def expected(sweep: SweepRecord, run_id: str, **changes: Any) -> SweepRecord:
    """Return what is read back: credentials blanked out."""
    trials = tuple(replace(t, result=replace(t.result, reason=names.redact(t.result.reason))) for t in sweep.trials)
    return replace(sweep, run_id=run_id, experiment=names.redact(sweep.experiment), trials=trials, **changes)


def children(uri: str, run_id: str) -> list[Any]:
    client = MlflowClient(uri)
    parent = client.get_run(run_id)
    return list(client.search_runs([parent.info.experiment_id], f"tags.`{names.PARENT}` = '{run_id}'", max_results=5000))


def test_a_sweep_reads_back_exactly_by_name_and_by_id(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("first", trials=25, limits={"weight_bytes": 2000.0})
    run_id, _ = run(store_uri, sweep)
    assert tracking.read(store_uri, "first") == expected(sweep, run_id)
    assert tracking.read(store_uri, run_id, "bitfront") == expected(sweep, run_id)
    assert [path.name for path in Path(".bitfront").iterdir()] == ["mlflow.lock"]  # everything was sent, nothing is kept


def test_plain_sql_and_the_client_read_the_same(store_uri: str, make_sweep: MakeSweep) -> None:
    run(store_uri, make_sweep("first", trials=12))
    run_id, _ = run(store_uri, make_sweep("second", trials=5, seed=1))
    for key, value, experiment in ((names.KIND, "sweep", None), (names.SWEEP, "second", "bitfront"), (names.PARENT, run_id, None)):
        fast = reading._sqlite_rows(Path("mlflow.db"), key, value, experiment)
        slow = reading._client_rows(store_uri, key, value, experiment)
        assert sorted(fast, key=lambda row: row.run_id) == sorted(slow, key=lambda row: row.run_id)
        assert fast
    assert reading._client_rows(store_uri, names.KIND, "sweep", "elsewhere") == []


def test_what_mlflow_shows(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("shown", trials=21)
    run_id, archive = run(store_uri, sweep)
    client = MlflowClient(store_uri)
    parent = client.get_run(run_id)
    assert parent.info.run_name == "shown"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"searcher": "random", "device": "vu9p", "task": "digits", "seed": "3"} | {
        f"fingerprint_{key}": value for key, value in sweep.fingerprints.items()
    }
    (used,) = parent.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", sweep.fingerprints["data"])
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "calibration, validation, test")]
    curve = client.get_metric_history(run_id, "hypervolume")
    assert [point.value for point in curve] == sorted(point.value for point in curve)
    assert curve[-1].value == pytest.approx(archive.hypervolume)
    assert len({point.step for point in curve}) == len(curve) > 3

    shown = {int(child.data.tags[names.TRIAL]): child for child in children(store_uri, run_id)}
    assert sorted(shown) == list(range(21))
    assert {n for n, child in shown.items() if child.data.tags[names.PARETO] == "true"} == set(archive.numbers)
    assert [n for n, child in shown.items() if child.data.tags[names.KNEE] == "true"] == [archive.knee]
    assert {n for n, child in shown.items() if child.info.status == "FAILED"} == {9, 19}
    third = shown[3]
    assert third.info.run_name == "shown/0003"
    weights = " ".join(str(each.weight) for each in sweep.trials[3].policy.values())
    assert third.data.params["sweep"] == "shown"
    assert third.data.params["searcher"] == "random"
    assert third.data.params["activation"] == "6xint8:tensor:ema"
    assert re.sub(r"(\d)x(\S+)", lambda m: " ".join([m[2]] * int(m[1])), third.data.params["weight"]) == weights
    assert third.data.tags[names.POLICY] == sweep.trials[3].policy.id
    shared = {"accuracy", "error", "loss", "weight_bytes", "latency_s", "seconds", "hypervolume", "bits_weight_avg", "bits_activation_avg"}
    assert set(third.data.metrics) == shared
    assert third.data.metrics["weight_bytes"] == sweep.trials[3].result.cost["weight_bytes"]
    assert third.info.end_time - third.info.start_time == 125
    volumes = [shown[n].data.metrics["hypervolume"] for n in range(21)]
    assert volumes == sorted(volumes)
    assert volumes[-1] == archive.hypervolume

    for number in range(21):
        path = client.download_artifacts(shown[number].info.run_id, "policy/policy.json")
        assert Policy.from_json(json.loads(Path(path).read_text())) == sweep.trials[number].policy
    rows = json.loads(Path(client.download_artifacts(run_id, "front.json")).read_text())
    assert [row["trial"] for row in rows] == list(archive.numbers)
    assert Path(client.download_artifacts(run_id, "experiment.toml")).read_text() == names.redact(sweep.experiment)
    assert Path("mlartifacts/bitfront").is_dir()


def test_the_machines_load_goes_the_same_way(store_uri: str, make_sweep: MakeSweep) -> None:
    from search.tracking.machine import sampled

    sweep = make_sweep("loaded", trials=3)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    with sampled(tracker, 0.05):
        drive(tracker, sweep)
        time.sleep(0.3)
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


def test_a_trial_that_moves_the_front_costs_the_driver_two_writes(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep("lean", trials=12)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    written: list[int] = []
    write = os.write
    driver = threading.get_ident()

    def count(handle: int, data: bytes) -> int:
        written.extend([len(data)] if threading.get_ident() == driver else [])
        return write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", count)
        patch.setattr(Spool, "keep_file", None)  # a file more would be several system calls more
        archive = drive(tracker, sweep)
    assert len(written) <= 24
    assert tracker.finish("finished")
    path = MlflowClient(store_uri).download_artifacts(tracker.run_id, "front.json")
    assert [row["trial"] for row in json.loads(Path(path).read_text())] == list(archive.numbers)


def test_a_long_policy_is_cut_in_its_parameters() -> None:
    texts = policy_params({"specs": ["int4:channel:mse", "int8:tensor"], "codes": [[0, 1], [1, 1]] * 40})
    assert texts["activation"] == "80xint8:tensor"
    assert len(texts["weight"]) == 250
    assert texts["weight"].endswith("...")


def test_no_credential_is_written_anywhere(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pa55word-env")
    sweep = make_sweep("secret", trials=12)
    run(store_uri, replace(sweep, experiment=sweep.experiment + "# pa55word-env"))
    written = [path for path in Path().rglob("*") if path.is_file()]
    assert len(written) > 5
    for word in (b"s3cret-word", b"hunter2-word", b"pa55word-env"):
        assert not [path for path in written if word in path.read_bytes()]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("API request to endpoint /x failed with error code 401 != 200", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("API request to endpoint /x failed with error code 403 != 200", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("connection refused", "Is the address right and the server running"),
    ],
)
def test_a_refusal_says_what_to_do(error: str, hint: str) -> None:
    with pytest.raises(BitfrontError, match=f"MLflow at https://x failed: RuntimeError: {error}. {hint}"), reported("https://x"):
        raise RuntimeError(error)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("at postgresql://bob:hunter2@db:5432/x, then", "at postgresql://***@db:5432/x, then"),
        ("postgresql://db/x?user=bob&password=hunter2&sslmode=require", "postgresql://db/x?user=bob&password=***&sslmode=require"),
        ("https://host/path?TOKEN=abc", "https://host/path?TOKEN=***"),
        ("https://host/path?tokens=3&note=a@b", "https://host/path?tokens=3&note=a@b"),
    ],
)
def test_addresses_are_blanked(given: str, shown: str) -> None:
    assert names.redact(given) == shown


def test_the_test_figures_and_the_header_can_follow(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("judged", trials=15)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    archive = drive(tracker, sweep)
    judged = {n: replace(sweep.trials[n], test={"accuracy": 0.9 + n / 1000}) for n in archive.numbers}
    for trial in judged.values():
        tracker.record(trial)
    tracker.describe(replace(sweep, baseline={"accuracy_test": 0.5}))
    assert tracker.finish("finished")
    read = tracking.read(store_uri, "judged")
    assert {trial.number: trial.test for trial in read.trials if trial.test} == {n: dict(t.test) for n, t in judged.items()}
    assert read.baseline == {"accuracy_test": 0.5}
    runs = children(store_uri, tracker.run_id)
    assert len(runs) == 15
    knee = next(each for each in runs if each.data.tags[names.KNEE] == "true")
    assert int(knee.data.tags[names.TRIAL]) == archive.knee
    assert knee.data.metrics["accuracy_test"] == judged[archive.knee].test["accuracy"]
    assert len(MlflowClient(store_uri).get_metric_history(knee.info.run_id, "accuracy")) == 1


def test_training_curves_are_charts_over_epochs(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("trained", trials=2)
    epochs = tuple({"epoch": float(n), "loss": 1.0 / n, "accuracy": 0.5 + n / 10} for n in (1, 2, 3))
    first = replace(sweep.trials[0], result=replace(sweep.trials[0].result, epochs=epochs))
    sweep = replace(sweep, trials=(first, sweep.trials[1]))
    run_id, _ = run(store_uri, sweep)
    assert tracking.read(store_uri, "trained") == expected(sweep, run_id)
    child = next(each for each in children(store_uri, run_id) if each.data.tags[names.TRIAL] == "0")
    history = MlflowClient(store_uri).get_metric_history(child.info.run_id, "epoch_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_replay_changes_nothing(store_uri: str, make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep("twice", trials=14)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    shutil.copytree(".bitfront", tmp_path / "kept")
    assert tracker.finish("finished")
    client = MlflowClient(store_uri)
    before = [(each.info.run_id, each.data.tags, each.data.metrics, each.info.end_time) for each in children(store_uri, tracker.run_id)]
    history = [client.get_metric_history(run_id, "hypervolume") for run_id, *_ in before]
    for path in (tmp_path / "kept").glob("*.jsonl"):  # the journal as it was, as if nothing had been noted as sent
        shutil.copy(path, ".bitfront")
    assert tracking.recover(store_uri, "twice")
    assert len(tracking.read(store_uri, "twice").trials) == 14
    assert not list(Path(".bitfront").glob("*.jsonl"))
    after = [(each.info.run_id, each.data.tags, each.data.metrics, each.info.end_time) for each in children(store_uri, tracker.run_id)]
    assert after == before
    assert [client.get_metric_history(run_id, "hypervolume") for run_id, *_ in before] == history


def test_an_answer_that_is_lost_makes_no_second_run(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep("lost", trials=8)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    create, calls = MlflowClient.create_run, iter(range(1000))

    def forgetful(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        made = create(self, *arguments, **options)
        if next(calls) % 2 == 0:
            raise ConnectionError("the answer never came")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", forgetful)
    drive(tracker, sweep)
    assert tracker.finish("finished")
    assert len(children(store_uri, tracker.run_id)) == 8


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
    trial = Store._trial

    def slowly(self: Store, *arguments: Any) -> None:
        time.sleep(0.5)
        trial(self, *arguments)

    monkeypatch.setattr(Store, "_trial", slowly)
    for each in sweep.trials:
        tracker.record(each)
    assert tracker.finish("finished", timeout_s=3.0)  # the whole batch takes twice as long
    assert len(children(store_uri, tracker.run_id)) == 12


def test_what_was_not_sent_is_sent_by_a_recovery(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("later", trials=6)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)

    def refuse(self: Store, *arguments: Any) -> None:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "apply", refuse)
        drive(tracker, sweep)
        assert not tracker.finish("stopped", timeout_s=0.2)
    assert "MLflow does not have all of sweep later yet; the rest is kept in" in caplog.text
    assert len(children(store_uri, tracker.run_id)) == 0
    assert tracking.read(store_uri, "later") == expected(sweep, tracker.run_id, status="stopped")
    assert len(children(store_uri, tracker.run_id)) == 0, "reading never writes"
    assert tracking.recover(store_uri, "later")
    assert len(children(store_uri, tracker.run_id)) == 6
    assert MlflowClient(store_uri).get_run(tracker.run_id).info.status == "KILLED"


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


KILLED = """
import os, pickle, sys
sys.path.insert(0, {root!r})
from search import tracking
sweep = pickle.loads(open("sweep.pickle", "rb").read())
tracker = tracking.start({uri!r}, "bitfront", sweep, {{"searcher": "random"}})
for trial in sweep.trials[:17]:
    tracker.record(trial)
print("recorded", flush=True)
sys.stdin.read()
"""


def test_kill_9_loses_and_doubles_nothing(store_uri: str, make_sweep: MakeSweep) -> None:
    import pickle

    sweep = make_sweep("killed", trials=30)
    Path("sweep.pickle").write_bytes(pickle.dumps(sweep))
    code = KILLED.format(root=str(ROOT), uri=store_uri)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        with pytest.raises(InputError, match="another process is writing this sweep"):
            tracking.open(store_uri, None, "killed")
        process.send_signal(signal.SIGKILL)
    tracker = tracking.open(store_uri, None, "killed")
    assert tracker.sweep.trials == expected(sweep, "").trials[:17]
    drive(tracker, sweep)  # a driver replays what is recorded, and goes on
    assert tracker.finish("finished")
    assert tracking.read(store_uri, "killed") == expected(sweep, tracker.run_id)
    numbers = sorted(int(each.data.tags[names.TRIAL]) for each in children(store_uri, tracker.run_id))
    assert numbers == list(range(30))


def test_reading_what_a_dead_writer_left_sets_it_to_stopped(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("dead", trials=5)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    assert tracking.read(store_uri, "dead").status == "running"
    assert tracker.close()  # everything is sent, but nobody said how it ended
    (Path(".bitfront") / f"{tracker.run_id}.jsonl").touch()
    before = MlflowClient(store_uri).get_run(tracker.run_id).info.status
    assert tracking.read(store_uri, "dead") == expected(sweep, tracker.run_id, status="stopped")
    assert MlflowClient(store_uri).get_run(tracker.run_id).info.status == before, "reading never writes"
    assert tracking.recover(store_uri, "dead")
    assert tracking.read(store_uri, "dead") == expected(sweep, tracker.run_id, status="stopped")
    assert MlflowClient(store_uri).get_run(tracker.run_id).info.status == "KILLED"
    assert [path.name for path in Path(".bitfront").iterdir()] == ["mlflow.lock"]


def test_a_sweep_whose_journal_cannot_grow_is_read_all_the_same(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its writer died on a full disk, and the disk still is."""
    sweep = make_sweep("full", trials=6)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    assert tracker.close()
    journal = Spool(Path(".bitfront"), tracker.run_id)
    journal.acquire()
    journal.release(remove=False)

    def full(self: Spool, line: object) -> None:
        raise BitfrontError("cannot write the journal: No space left on device.")

    monkeypatch.setattr(Spool, "append", full)
    assert tracking.recover(store_uri, "full")
    assert tracking.read(store_uri, "full") == expected(sweep, tracker.run_id, status="stopped")
    assert "No space left on device. The sweep can be read, and is closed later." in caplog.text


def test_a_name_may_hold_an_apostrophe(store_uri: str, make_sweep: MakeSweep) -> None:
    run_id, _ = run(store_uri, make_sweep("ann's", trials=2))
    assert {row.run_id for row in reading._client_rows(store_uri, names.SWEEP, "ann's", None)} >= {run_id}
    assert tracking.read(store_uri, "ann's").run_id == run_id


def test_a_resumed_sweep_passes_over_the_fronts_of_its_past(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("resumed", trials=20)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep, sweep.trials[:12])
    assert tracker.finish("stopped")
    again = tracking.open(store_uri, "bitfront", "resumed")
    assert again.sweep.status == "running"
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    for trial in sweep.trials:
        if trial.number >= 12:
            again.record(trial)
        figures = {**trial.result.cost, **trial.result.metrics}
        if trial.result.ok and archive.add(trial.number, [figures[name] for name in sweep.objectives]):
            again.update_front(archive.numbers, archive.knee, archive.hypervolume)
    assert again.finish("finished")
    curve = [(point.step, point.value) for point in MlflowClient(store_uri).get_metric_history(again.run_id, "hypervolume")]
    assert curve == sorted(curve)
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    on_front = {int(each.data.tags[names.TRIAL]) for each in children(store_uri, again.run_id) if each.data.tags[names.PARETO] == "true"}
    assert on_front == set(archive.numbers) == {trial.number for trial in front_members(sweep)}
    assert archive.knee == knee_number(front_members(sweep), sweep.objectives)


def test_a_front_of_unrecorded_trials_is_refused(store_uri: str, make_sweep: MakeSweep) -> None:
    tracker = tracking.start(store_uri, "bitfront", make_sweep("odd", trials=2), PARAMS)
    with pytest.raises(InputError, match=r"trials \[7\] given as the front, but they were not recorded"):
        tracker.update_front([7], 7, 0.5)
    with pytest.raises(InputError, match="status 'done' given; known: running, finished, stopped, failed"):
        tracker.finish("done")
    assert tracker.finish("failed")
    assert tracking.read(store_uri, "odd").status == "failed"


def test_names_that_are_unknown_or_stand_for_several(store_uri: str, make_sweep: MakeSweep) -> None:
    with pytest.raises(InputError, match=r"no sweep 'x' at sqlite:///.*There is no sweep there"):
        tracking.read(store_uri, "x")
    first, _ = run(store_uri, make_sweep("digits-tpe", trials=2))
    second, _ = run(store_uri, make_sweep("digits-tpe", trials=2, seed=1), "other")
    with pytest.raises(InputError, match=r"no sweep 'digits-tp' .*Did you mean 'digits-tpe'\? Known: digits-tpe"):
        tracking.read(store_uri, "digits-tp")
    with pytest.raises(
        InputError, match=rf"2 sweeps are called 'digits-tpe'.*{first} \(experiment bitfront\), {second} \(experiment other\)"
    ):
        tracking.read(store_uri, "digits-tpe")
    assert tracking.read(store_uri, "digits-tpe", "other").run_id == second
    with pytest.raises(InputError, match=r"no sweep 'digits-tpe' .*experiment 'third'"):
        tracking.read(store_uri, "digits-tpe", "third")


def test_stores_that_cannot_be_used(tmp_path: Path, make_sweep: MakeSweep, store_uri: str) -> None:
    with pytest.raises(InputError, match=r"no record at sqlite:///.*absent\.db.* does not exist\. Run this where the sweep ran"):
        tracking.read(f"sqlite:///{tmp_path}/absent.db", "x")
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(InputError, match=r"tracking uri '\./mlruns' given; write sqlite:///FILE\.db"):
        tracking.start("./mlruns", "bitfront", make_sweep(), PARAMS)
    with pytest.raises(BitfrontError, match=r"MLflow at http://\*\*\*@127\.0\.0\.1:9 failed: .* Is the address right") as caught:
        tracking.start("http://me:hunter2-word@127.0.0.1:9", "bitfront", make_sweep(), PARAMS)
    assert "hunter2-word" not in str(caught.value)
    client = MlflowClient(store_uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="the MLflow experiment 'gone' was deleted; restore it"):
        tracking.start(store_uri, "gone", make_sweep(), PARAMS)


FIRST_USE = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from search.tracking.client import connect, experiment_id
client = connect("sqlite:///fresh.db", Path(".bitfront"))
print(experiment_id(client, "bitfront", "sqlite:///fresh.db"))
"""


@pytest.mark.slow
def test_two_sweeps_may_be_the_first_to_use_a_store(tmp_path: Path) -> None:
    code = FIRST_USE.format(root=str(ROOT))
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1] != ""


def test_reading_a_sqlite_store_does_not_import_mlflow(store_uri: str, make_sweep: MakeSweep) -> None:
    run(store_uri, make_sweep("light", trials=3))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from search import tracking; tracking.read({store_uri!r}, 'light'); "
    code += "sys.exit(' '.join({'mlflow', 'torch', 'plotly', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""


def test_store_whose_making_is_cut_off_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow makes its tables in many steps; a file that holds some of them can never be opened again."""

    def killed(tracking_uri: str, registry_uri: str) -> None:
        with closing(sqlite3.connect(tracking_uri.removeprefix("sqlite:///"))) as database:
            database.execute("CREATE TABLE webhooks (id TEXT)")
        raise KeyboardInterrupt

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr("search.tracking.client.MlflowClient", killed)
        with pytest.raises(KeyboardInterrupt):
            connect(uri, tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    assert len(connect(uri, tmp_path).search_experiments()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.lock"]
