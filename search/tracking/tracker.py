"""`Tracker`: the record of a running sweep. Writing to it costs the driver a line in a local file; a thread carries it to MLflow."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from quant_core.util.errors import BitfrontError, InputError
from search.records.front import figures, front_members, front_rows, hypervolume_of, keeps_limits, knee_number
from search.records.record import SweepRecord, TrialRecord
from search.records.summary import BASELINE, best_uniform, headline
from search.tracking import names
from search.tracking.codec import Json, sweep_to_json, to_tags, trial_to_json
from search.tracking.orphans import BEGIN
from search.tracking.outage import Outage
from search.tracking.spool import Spool
from search.tracking.stamps import stamps
from search.tracking.store import STATUSES
from search.tracking.view import COSTS
from search.tracking.writer import Writer

log = logging.getLogger("bitfront.tracking")
FLUSH_S = 45.0  # with what a request under way may take (`writer.LEAVE_S`), a minute


class Tracker:
    """One process's hold on a sweep's record; made by `opening.start` and `opening.open_sweep`, let go by `finish`.

    Attributes:
        sweep: the header of the sweep; on a resumed one with the trials that were recorded before.
        blocked_s: how long callers have waited in here so far.
    """

    def __init__(self, sweep: SweepRecord, spool: Spool, writer: Writer, after: int = 0) -> None:
        self.sweep, self._now = sweep, stamps(after)
        self.blocked_s = 0.0
        self._spool, self._writer = spool, writer
        self._layers = tuple(sweep.trials[0].policy) if sweep.trials else ()
        self._numbers = {trial.number for trial in sweep.trials}
        self._volume = hypervolume_of(sweep, front_members(sweep))
        self._candidates = {trial.number: trial for trial in sweep.trials if trial.result.ok}
        self._uniform = best_uniform(sweep)
        self._last = -1
        writer.start()

    @property
    def run_id(self) -> str:
        """MLflow run id of the sweep's parent run."""
        return self.sweep.run_id

    @property
    def busy_s(self) -> float:
        """Seconds that the background thread has spent writing to MLflow."""
        return self._writer.busy_s

    def record(self, trial: TrialRecord) -> None:
        """Keep one ended trial. A trial recorded again (with its test figures) replaces what was there."""
        start = time.perf_counter()
        trial = replace(trial, result=replace(trial.result, reason=names.redact(trial.result.reason)))
        lines: list[Json] = []
        if not self._layers:
            self._layers = tuple(trial.policy)
            lines.append({"op": "tags", "tags": to_tags(names.LAYERS, list(self._layers))})
            lines.append({"op": "view", "costs": [cost for cost in (*COSTS, *self._other_costs()) if cost in figures(trial)]})
        if trial.result.ok:
            self._candidates[trial.number] = trial
        if trial.origin == BASELINE:
            self._uniform = best_uniform(self.sweep, [trial, *([self._uniform] if self._uniform else [])])
        self._numbers.add(trial.number)
        self._last = trial.number
        data = trial_to_json(trial, self._layers)
        uniform = trial.origin == BASELINE and trial.result.ok and keeps_limits(trial, self.sweep.limits)
        self._write(*lines, {"op": "trial", "trial": data, "hypervolume": self._volume, "uniform": uniform})
        self.blocked_s += time.perf_counter() - start

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep the front as it now is: tags of its members, the hypervolume, `front.json`.

        One line of the journal: every write to a file lets other threads in, and the driver waits for them.

        A front of less hypervolume than the last one is a resumed sweep going through its past; it is passed over.

        Raises:
            InputError: a number was never recorded as a trial that ended well.
        """
        if hypervolume < self._volume * (1 - 1e-9):
            return
        start = time.perf_counter()
        unknown = sorted(set(numbers) - set(self._candidates))
        if unknown:
            raise InputError(f"trials {unknown} given as the front, but they were not recorded as ended well; record them first.")
        self._candidates = {number: self._candidates[number] for number in numbers}  # who has left the front never returns
        self._volume = hypervolume
        members = [self._candidates[number] for number in sorted(self._candidates)]
        self._write(
            {
                "op": "front",
                "front": list(numbers),
                "knee": knee,
                "hypervolume": hypervolume,
                "trial": self._last,
                "step": len(self._numbers),
                "rows": front_rows(self.sweep, members),
                "headline": headline(self.sweep, members, self._uniform, len(self._numbers)),
            }
        )
        self.blocked_s += time.perf_counter() - start

    def _other_costs(self) -> list[str]:
        return [name for name in self.sweep.objectives if name not in (*COSTS, "error")]

    def artifact(self, content: Path | str | bytes | Mapping[str, object] | Sequence[object], name: str) -> None:
        """Keep a file on the parent run: a path is copied, text and bytes are written, anything else becomes JSON."""
        if isinstance(content, Path):
            data = content.read_bytes()
        elif isinstance(content, bytes):
            data = content
        else:
            data = (content if isinstance(content, str) else json.dumps(content, indent=1)).encode()
        self._spool.keep_file(name, data)
        self._write({"op": "artifact", "name": name})

    def table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Keep rows as a table that the MLflow UI shows (`mlflow.log_table`'s form; written whole, so a replay adds nothing)."""
        columns = list(rows[0]) if rows else []
        self.artifact({"columns": columns, "data": [[row[key] for key in columns] for row in rows]}, name)
        self.tag({"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"}])})

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags on the parent run; `mlflow.note.content` is its description."""
        self._write({"op": "tags", "tags": dict(tags)})

    def params(self, params: Mapping[str, str]) -> None:
        """Set parameters on the parent run; MLflow lets none be changed later."""
        self._write({"op": "params", "params": dict(params)})

    def dataset(self, name: str, digest: str) -> None:
        """Name the data that the sweep is bound to, by its hash, among the inputs of the parent run."""
        self._write({"op": "dataset", "name": name, "digest": digest, "context": "calibration, validation, test"})

    def measure(self, figures: Mapping[str, float]) -> None:
        """Keep figures of the moment, such as the machine's load, as curves on the parent run over the trials that have ended.

        May be called from another thread.
        """
        self._write({"op": "metrics", "metrics": dict(figures), "step": len(self._numbers)})

    def restart(self) -> None:
        """Set the status back to running."""
        self.sweep = replace(self.sweep, status="running")
        self._write({"op": "status", "status": "running"})

    def describe(self, sweep: SweepRecord) -> None:
        """Replace the header, for example when the float network's test accuracy is known at the end."""
        self.sweep = replace(sweep, run_id=self.run_id, trials=self.sweep.trials)
        self.tag(to_tags(names.RECORD, sweep_to_json(self.sweep)))

    def finish(self, status: str, timeout_s: float = FLUSH_S) -> bool:
        """Set the status (finished, stopped, failed), send the rest and let go; tell whether MLflow has everything.

        Waits while MLflow takes records, and `timeout_s` while it does not. What it then does not have stays in the spool, and the next
        `resume` or `front` sends it.

        Raises:
            InputError: unknown status.
        """
        if status not in STATUSES:
            raise InputError(f"status {status!r} given; known: {', '.join(STATUSES)}.")
        try:
            self._write(*self._check(), {"op": "status", "status": status})
            self._spool.sync()
        except (BitfrontError, OSError) as error:  # the disk of the journal is full: what is in it is sent, and its writer counts as dead
            log.warning("%s The sweep can be read, and is closed later.", error)
            self.close(timeout_s, keep_journal=True)
            return False
        return self.close(timeout_s)

    def begin(self, experiment_name: str, tags: Mapping[str, str]) -> None:
        """Keep in the journal what begins the sweep, so that it can be written anew where the store is lost."""
        self._write({"op": BEGIN, "experiment": experiment_name, "tags": dict(tags)})

    def check(self) -> None:
        """Have the front's tags compared with what MLflow shows, and set right."""
        self._write(*self._check())

    def _check(self) -> list[Json]:
        """Return the line that has the front's tags compared with what MLflow really shows, where there is a front."""
        if not self._candidates:
            return []
        front = front_members(replace(self.sweep, trials=tuple(self._candidates[number] for number in sorted(self._candidates))))
        return [{"op": "check", "front": [trial.number for trial in front], "knee": knee_number(front, self.sweep.objectives)}]

    @property
    def mended(self) -> int:
        """How many trials bore tags of the front that were not theirs, as far as `finish` has compared them."""
        return self._writer.mended

    def close(self, timeout_s: float = FLUSH_S, *, keep_journal: bool = False, discard: bool = False) -> bool:
        """Send the rest and let go without a change of status; waits as long as it goes on, and `timeout_s` when it does not.

        `keep_journal` leaves the journal there even where MLflow has all of it: the sign that its writer died. `discard` removes it even
        where MLflow has not: that of a sweep that could not begin.
        """
        complete = self._writer.close(timeout_s)
        if not complete and not discard:
            why = self._writer.outage or Outage("some records were refused", "see above")
            remedy = why.remedy.replace("SWEEP", self.sweep.name)
            log.warning(
                "MLflow does not have all of sweep %s: %s. The rest is kept in %s; %s.",
                self.sweep.name,
                why.cause,
                self._spool.path,
                remedy,
            )
        self._spool.release(remove=discard or (complete and not keep_journal))
        return complete

    def _write(self, *lines: Json) -> None:
        now = self._now()
        self._spool.append(*(line | {"time": now} for line in lines))
        self._writer.wake()
