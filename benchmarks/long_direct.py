"""`bitfront` that writes the rows of trials itself: `python -m benchmarks.long_direct ARGUMENTS`, for stores of very many trials.

What MLflow's client does for the run of a trial, some thirty statements in four transactions, becomes a few statements in three. The
rows are the same, which a test shows; everything else goes to MLflow's client.
"""

import sqlite3
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from search.cli.app import main
from search.tracking import client
from search.tracking.names import PARENT

_Client: Any = client.MlflowClient


class Direct(_Client):  # type: ignore[misc]
    """MLflow's client, but for the runs that it creates below another run."""

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        super().__init__(tracking_uri=tracking_uri, registry_uri=registry_uri)
        self._path, self._ours = tracking_uri.removeprefix("sqlite:///"), set[str]()
        self._database: sqlite3.Connection | None = None

    def _rows(self) -> sqlite3.Connection:
        if self._database is None:  # in the thread that writes
            self._database = sqlite3.connect(self._path, isolation_level=None, timeout=60)
            self._database.execute("PRAGMA synchronous = OFF")
        return self._database

    def create_run(self, experiment_id: str, start_time: int = 0, tags: Mapping[str, str] | None = None) -> Any:
        """Add a run, and its tags."""
        if PARENT not in (tags or {}):
            return super().create_run(experiment_id, start_time=start_time or None, tags=tags)
        database, run_id, tags = self._rows(), uuid.uuid4().hex, dict(tags or {})
        root = database.execute("SELECT artifact_location FROM experiments WHERE experiment_id = ?", (experiment_id,)).fetchone()[0]
        place = f"{root}/{run_id}/artifacts"
        values = (run_id, tags["mlflow.runName"], "UNKNOWN", "", "", "unknown", "RUNNING", start_time, None, "", "active", place)
        database.execute("BEGIN")
        database.execute(f"INSERT INTO runs VALUES ({', '.join('?' * 14)})", (*values, int(experiment_id), None))
        self._tag(run_id, tags)
        database.execute("COMMIT")
        self._ours.add(run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, artifact_uri=place))

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._rows().executemany("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", [(key, value, run_id) for key, value in tags.items()])

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Iterable[Any] = (), tags: Iterable[Any] = ()) -> None:
        """Add metrics, parameters and tags."""
        if run_id not in self._ours:
            super().log_batch(run_id, metrics, params, tags)
            return
        database = self._rows()
        rows = [(metric.key, metric.value, metric.timestamp, metric.step, 0, run_id) for metric in metrics]
        database.execute("BEGIN")
        database.executemany(
            "INSERT OR IGNORE INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        database.executemany(
            "INSERT OR REPLACE INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        database.executemany("INSERT OR IGNORE INTO params VALUES (?, ?, ?)", [(param.key, param.value, run_id) for param in params])
        self._tag(run_id, {tag.key: tag.value for tag in tags})
        database.execute("COMMIT")

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        """Set the status and the end."""
        if run_id not in self._ours:
            super().set_terminated(run_id, status, end_time)
            return
        self._rows().execute("UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (status, end_time, run_id))


if __name__ == "__main__":
    client.MlflowClient = Direct  # type: ignore[assignment, misc]
    sys.argv[0] = "bitfront"
    main()
