"""The short form of `make torture`: a few damaged files, and that its count of faults is not blind."""

import logging
import random
import sqlite3
from pathlib import Path

import pytest

from benchmarks.torture import damage, ray
from benchmarks.torture.record import faults, run
from search.tracking import names


def test_damaged_files_lose_and_upset_nothing_and_loggers_are_left_as_they_were() -> None:
    level = logging.getLogger("bitfront.tracking").level
    assert damage.attack(len(damage.KINDS), random.Random(3)) == {"lost": 0, "duplicated": 0, "untidy": 0}
    assert logging.getLogger("bitfront.tracking").level == level


@pytest.mark.ray
@pytest.mark.slow
def test_an_agent_of_ray_that_is_killed_ends_the_driver_and_loses_nothing() -> None:
    """The driver says what to type, leaves no process and no folder, and the resumed sweep is that which nothing disturbed."""
    assert ray.KINDS[0] == "agent"
    assert ray.attack(1, random.Random(1)) == {"lost": 0, "duplicated": 0, "untidy": 0}


def test_faults_are_seen(store_of_a_sweep: str) -> None:
    uri = store_of_a_sweep
    assert faults(uri, 5, set(range(5))) == {"lost": 0, "duplicated": 0, "untidy": 0}
    with sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None) as database:
        database.execute("UPDATE tags SET value = 'true' WHERE key IN (?, ?)", (names.PARETO, names.KNEE))
        database.execute("UPDATE tags SET value = '0' WHERE key = ? AND value = '1'", (names.TRIAL,))
    database.close()
    (Path(uri.removeprefix("sqlite:///")).parent / ".bitfront" / "left.jsonl").touch()
    seen = faults(uri, 6, set(range(6)))
    assert seen["lost"] == 1
    assert seen["duplicated"] == 1
    assert seen["untidy"] >= 3


@pytest.fixture
def store_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run(uri, 5, 0.0, 30.0)
    return uri
