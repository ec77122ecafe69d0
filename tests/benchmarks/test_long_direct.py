"""Rows of trials that are written directly are those that MLflow's client writes."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.long_direct import Direct
from benchmarks.torture.record import run
from search.tracking import client

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")


def rows(path: Path) -> dict[str, list[dict[str, object]]]:
    """Return every row of the five tables, with the trial in place of the run's id, and without times."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        names = dict(database.execute("SELECT run_uuid, name FROM runs").fetchall())
        tables = {name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")] for name in TABLES}
    for table in tables.values():
        for row in table:
            row["run_uuid"] = names[row["run_uuid"]]
            row.update({key: bool(row[key]) for key in ("start_time", "end_time", "timestamp", "artifact_uri") if key in row})
            row.update({"value": ""} if row.get("key") in ("bitfront.trial_uid", "mlflow.parentRunId", "bitfront.spool") else {})
    return {name: sorted(table, key=str) for name, table in tables.items()}


def test_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client.connect(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    stored = []
    for made in (client.MlflowClient, Direct):
        folder = tmp_path / made.__name__
        folder.mkdir()
        shutil.copy(tmp_path / "mlflow.db", folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(client, "MlflowClient", made)
        assert run(f"sqlite:///{folder}/mlflow.db", 12, 0.0, 300.0)
        stored.append(rows(folder / "mlflow.db"))
    assert len(stored[0]["runs"]) == 13
    assert stored[1] == stored[0]
