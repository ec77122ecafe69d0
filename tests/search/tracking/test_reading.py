"""Reading sweeps back: by name and by run id, by plain SQL and through the client."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quant_core.util.errors import InputError
from search import tracking
from search.tracking import names, reading
from tests.search.tracking.cases import MakeSweep, expected, run

pytestmark = pytest.mark.usefixtures("hasty")
ROOT = Path(__file__).parents[3]


def test_a_sweep_reads_back_exactly_by_name_and_by_id(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("first", trials=25, limits={"weight_bytes": 2000.0})
    run_id, _ = run(store_uri, sweep)
    assert tracking.read(store_uri, "first") == expected(sweep, run_id)
    assert tracking.read(store_uri, run_id, "bitfront") == expected(sweep, run_id)
    assert [path.name for path in Path(".bitfront").iterdir()] == ["mlflow.lock"]  # everything was sent, nothing is kept


def test_plain_sql_and_the_client_read_the_same(store_uri: str, make_sweep: MakeSweep) -> None:
    run(store_uri, make_sweep("first", trials=12))
    run_id, _ = run(store_uri, make_sweep("second", trials=5, seed=1))
    for key, value, experiment in (
        (names.KIND, "sweep", None),
        (names.SWEEP, "second", "bitfront"),
        (names.PARENT, run_id, None),
        (reading._RUN_ID, run_id, None),
    ):
        fast = reading._sqlite_rows(Path("mlflow.db"), key, value, experiment, ())
        slow = reading._client_rows(store_uri, key, value, experiment)
        assert sorted(fast, key=lambda row: row.run_id) == sorted(slow, key=lambda row: row.run_id)
        assert fast
    assert reading._client_rows(store_uri, names.KIND, "sweep", "elsewhere") == []


def test_a_record_is_put_together_from_a_few_tags(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose record takes several tags."""
    monkeypatch.setattr("search.tracking.codec.CHUNK", 60)
    run(store_uri, make_sweep("wide", trials=3, layers=40))
    parent = reading.find_sweep(store_uri, "wide")
    whole, few = reading.family(store_uri, parent), reading.family(store_uri, parent, reading.OF_RECORDS)
    assert reading.merged(*few, ()) == reading.merged(*whole, ())
    assert f"{names.LAYERS}.1" in few[0].tags
    kept = {tag for row in few[1] for tag in row.tags}
    assert {re.sub(r"\.\d+$", "", tag) for tag in kept} <= set(reading.OF_RECORDS)
    assert len(kept) < len({tag for row in whole[1] for tag in row.tags})


def test_a_sweep_is_read_by_its_run_id_without_a_look_at_others(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 trials of other sweeps must not be scanned; and of the own ones one tag is read each."""
    run(store_uri, make_sweep("first", trials=3))
    run_id, _ = run(store_uri, make_sweep("second", trials=5, seed=1))
    asked: list[tuple[str, str]] = []
    given: list[reading.Row] = []
    rows = reading._rows

    def counted(uri: str, key: str, value: str, *rest: Any) -> list[reading.Row]:
        asked.append((key, value))
        given.extend(read := rows(uri, key, value, *rest))
        return read

    monkeypatch.setattr(reading, "_rows", counted)
    assert len(tracking.read(store_uri, run_id).trials) == 5
    assert asked == [(reading._RUN_ID, run_id), (reading._RUN_ID, run_id), (names.PARENT, run_id)]
    assert [len(row.tags) for row in given[2:]] == [1] * 5
    assert len(given[0].tags) > 5


def test_the_header_of_a_sweep_is_read_without_its_trials(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store_uri, make_sweep("first", trials=5))
    whole = tracking.read(store_uri, "first")
    monkeypatch.setattr(reading, "trial_from_json", lambda *_: pytest.fail("a trial was read"))
    assert tracking.read_header(store_uri, "first") == replace(whole, trials=())


def test_a_name_may_hold_an_apostrophe(store_uri: str, make_sweep: MakeSweep) -> None:
    run_id, _ = run(store_uri, make_sweep("ann's", trials=2))
    assert {row.run_id for row in reading._client_rows(store_uri, names.SWEEP, "ann's", None)} >= {run_id}
    assert tracking.read(store_uri, "ann's").run_id == run_id


def test_names_that_are_unknown_or_stand_for_several(store_uri: str, make_sweep: MakeSweep) -> None:
    with pytest.raises(InputError, match=r"no sweep 'x' at sqlite:///.*There is no sweep there"):
        tracking.read(store_uri, "x")
    first, _ = run(store_uri, make_sweep("digits-tpe", trials=2))
    second, _ = run(store_uri, make_sweep("digits-tpe", trials=2, seed=1), "other")
    with pytest.raises(InputError, match=r"no sweep 'digit-tpe' .*Did you mean 'digits-tpe'\? Known: digits-tpe"):
        tracking.read(store_uri, "digit-tpe")
    with pytest.raises(
        InputError, match=rf"2 sweeps are called 'digits-tpe'.*{first} \(experiment bitfront\), {second} \(experiment other\)"
    ):
        tracking.read(store_uri, "digits-tpe")
    assert tracking.read(store_uri, "digits-tpe", "other").run_id == second
    with pytest.raises(InputError, match=r"no sweep 'digits-tpe' .*experiment 'third'"):
        tracking.read(store_uri, "digits-tpe", "third")


def test_reading_a_sqlite_store_does_not_import_mlflow(store_uri: str, make_sweep: MakeSweep) -> None:
    run(store_uri, make_sweep("light", trials=3))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from search import tracking; tracking.read({store_uri!r}, 'light'); "
    code += "sys.exit(' '.join({'mlflow', 'torch', 'plotly', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""
