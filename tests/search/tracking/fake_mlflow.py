"""A store of MLflow's in memory, for tests that end its writer between any two requests."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Killed(BaseException):
    """The process ended here."""


class FakeClient:
    """What `Store` asks of MLflow, counted; dies at request `kill_at`, before it is carried out, or after (`late`)."""

    tracking_uri = "fake://"

    def __init__(self, kill_at: int = -1, late: bool = False) -> None:
        self.kill_at, self.late, self.requests = kill_at, late, 0
        self.tags: dict[str, dict[str, str]] = defaultdict(dict)
        self.metrics: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
        self.params: dict[str, dict[str, str]] = defaultdict(dict)
        self.status: dict[str, str] = {}
        self.files: dict[str, dict[str, bytes]] = defaultdict(dict)

    def _request(self) -> bool:
        """Count a request; tell whether the process is to die after it."""
        self.requests += 1
        if self.requests == self.kill_at and not self.late:
            raise Killed
        return self.requests == self.kill_at

    def _done(self, dies: bool) -> None:
        if dies:
            raise Killed

    def create_run(self, _experiment: str, start_time: int = 0, tags: dict[str, str] | None = None) -> Any:
        dies = self._request()
        run_id = f"{len(self.status):032x}"
        self.status[run_id] = "RUNNING"
        self.tags[run_id] |= tags or {}
        self._done(dies)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, artifact_uri="", start_time=start_time))

    def get_run(self, _run_id: str) -> Any:
        self._done(self._request())
        return SimpleNamespace(info=SimpleNamespace(start_time=0))

    def log_batch(self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        dies = self._request()
        self.metrics[run_id] |= {(metric.key, metric.value, metric.timestamp, metric.step) for metric in metrics}
        for param in params:
            assert self.params[run_id].setdefault(param.key, param.value) == param.value, "MLflow lets no parameter be changed"
        self.tags[run_id] |= {tag.key: tag.value for tag in tags}
        self._done(dies)

    def set_terminated(self, run_id: str, status: str, end_time: int = 0) -> None:
        dies = self._request()
        self.status[run_id] = status
        self._done(dies)

    def update_run(self, run_id: str, status: str) -> None:
        self.set_terminated(run_id, status)

    def log_artifact(self, run_id: str, path: str, folder: str | None = None) -> None:
        dies = self._request()
        self.files[run_id][f"{folder or '.'}/{Path(path).name}"] = Path(path).read_bytes()
        self._done(dies)

    def log_inputs(self, *_inputs: Any) -> None:
        self._done(self._request())

    def set_experiment_tag(self, *_tag: str) -> None:
        self._done(self._request())

    def search_runs(self, _experiments: Sequence[str], query: str, max_results: int = 0, page_token: str | None = None) -> Any:
        self._done(self._request())
        wanted = dict(re.findall(r"tags\.`([^`]+)` = '([^']*)'", query))
        runs = [run for run, tags in self.tags.items() if wanted.items() <= tags.items()]
        return _Page(SimpleNamespace(info=SimpleNamespace(run_id=run), data=SimpleNamespace(tags=self.tags[run])) for run in runs)


class _Page(list[Any]):
    token = None
