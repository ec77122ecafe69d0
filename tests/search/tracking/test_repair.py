"""`repair`: a store that was lost is written anew from the journal, and stale tags of the front are set right."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError, InputError
from search import tracking
from search.tracking import names
from search.tracking.repair import repair
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected, run

pytestmark = pytest.mark.usefixtures("hasty")


def test_a_sweep_whose_store_was_removed_is_named_and_written_anew(store_uri: str, empty_store: Path, make_sweep: MakeSweep) -> None:
    sweep, store = make_sweep("lost", trials=6), Path(store_uri.removeprefix("sqlite:///"))
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    store.unlink()
    assert not tracker.finish("finished", timeout_s=5.0)
    with pytest.raises(InputError, match=r"holds 6 trials of sweep 'lost', which this store does not have: `bitfront repair lost`"):
        tracking.read(store_uri, "lost")
    store = store.with_name("next.db")  # MLflow keeps connections to the old file as long as this process lives
    store.write_bytes(empty_store.read_bytes())
    store_uri = f"sqlite:///{store}"
    with pytest.raises(InputError, match=r"no sweep 'lost' at .* holds 6 trials of sweep 'lost'"):
        tracking.read(store_uri, "lost")
    done = repair(store_uri, "lost")
    assert (done.name, done.trials, done.rebuilt, done.complete) == ("lost", 6, True, True)
    assert tracking.read(store_uri, "lost") == expected(sweep, done.run_id)
    assert len(children(store_uri, done.run_id)) == 6
    assert [path.name for path in Path(".bitfront").iterdir()] == ["mlflow.lock"]


def test_stale_tags_of_the_front_are_set_right(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("stale", trials=6)
    run_id, archive = run(store_uri, sweep)
    with closing(sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None)) as database:
        database.execute("UPDATE tags SET value = 'true' WHERE key IN (?, ?)", (names.PARETO, names.KNEE))
    done = repair(store_uri, "stale")
    assert done.mended == sum(number not in archive.numbers or number != archive.knee for number in range(6))
    shown = {int(child.data.tags[names.TRIAL]): child.data.tags for child in children(store_uri, run_id)}
    assert sorted(number for number, tags in shown.items() if tags[names.PARETO] == "true") == list(archive.numbers)
    assert [number for number, tags in shown.items() if tags[names.KNEE] == "true"] == [archive.knee]
    assert tracking.read(store_uri, "stale") == expected(sweep, run_id)
    assert repair(store_uri, "stale").mended == 0


def test_a_sweep_that_cannot_begin_leaves_no_run_that_says_it_runs(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object) -> None:
        raise BitfrontError("cannot write: No space left on device")

    monkeypatch.setattr("search.tracking.spool.Spool.keep_file", full)
    with pytest.raises(BitfrontError, match="No space left"):
        tracking.start(store_uri, "bitfront", make_sweep("full"), PARAMS)
    assert tracking.read(store_uri, "full").status == "failed"
    assert not list(Path(".bitfront").glob("*.jsonl"))


def test_the_command_says_what_it_did(store_uri: str, make_sweep: MakeSweep, bitfront: Callable[..., object]) -> None:
    run_id, _ = run(store_uri, make_sweep("plain", trials=4))
    answer = bitfront("repair", "plain", "--uri", store_uri)
    assert answer.returncode == 0, answer.stderr  # type: ignore[attr-defined]
    assert answer.stdout == f"plain: 4 trials; tags of the front set right on 0 trials\nplain {run_id}\n"  # type: ignore[attr-defined]
