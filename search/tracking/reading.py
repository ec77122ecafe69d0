"""Reading sweeps back: from MLflow, and from the spool what MLflow does not have yet.

A SQLite store is read with plain SQL (three tables that have stood since MLflow 1.0), which takes a tenth of the time that importing
mlflow takes; every other store, and a SQLite file whose tables look otherwise, is read through MLflow's client. Both give the same.
"""

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.process import no_collector
from quant_core.util.registry import suggest
from quant_core.util.text import listed
from search.records.record import SweepRecord, TrialRecord
from search.tracking import names
from search.tracking.codec import Json, from_tags, layer_names, sweep_from_json, timings_of, trial_from_json
from search.tracking.orphans import hint
from search.tracking.spool import FOLDER, RUN_ID, Spool, check_run_id

log = logging.getLogger("bitfront.tracking")
LATEST, SHORTEST_PREFIX = "latest", 3
_SQLITE = "sqlite:///"
_RUN_ID = "run_id"
"""In place of a tag: MLflow's own name of a run."""
_PARTS = "SELECT DISTINCT key FROM tags WHERE key GLOB ?"  # names in full are looked up in an index, twice as fast as patterns
OF_RECORDS = (names.RECORD, names.MEASURED)
"""The tags of trials that a record is put together from: one of the some forty that each has, or two."""


@dataclass(frozen=True)
class Row:
    """One MLflow run: its id, its experiment's id and name, and its tags."""

    run_id: str
    experiment_id: str
    experiment: str
    tags: Mapping[str, str]


def read(uri: str, ref: str, experiment_name: str | None = None) -> SweepRecord:
    """Return all that is known of a sweep, unsent records included.

    Nothing is written: `search.tracking.recovery` closes the sweep of a dead writer.

    Args:
        uri: MLflow tracking uri.
        ref: the sweep's name or MLflow run id.
        experiment_name: where to look; None looks everywhere.

    Raises:
        InputError: no sweep, or more than one, is called `ref`; lists near names.
        BitfrontError: the store cannot be reached.
    """
    parent = find_sweep(uri, ref, experiment_name)
    journal = journal_of(uri, parent)
    abandoned = journal.abandoned()
    with no_collector():  # a record is some hundred objects per trial, none of which is garbage
        lines = journal.unsent()[0]  # before MLflow is read: what is sent meanwhile is then seen twice, not never
        sweep = merged(*family(uri, parent, OF_RECORDS), lines)
    return replace(sweep, status="stopped") if abandoned and sweep.status == "running" else sweep


def read_header(uri: str, ref: str, experiment_name: str | None = None) -> SweepRecord:
    """Return a sweep without its trials; else as `read`."""
    parent = find_sweep(uri, ref, experiment_name)
    lines = journal_of(uri, parent).unsent()[0]
    return merged(parent, (), [line for line in lines if line.get("op") != "trial"])


def journal_of(uri: str, parent: Row) -> Spool:
    """Return the local journal of a sweep: where its parent run says it is, beside a SQLite store that has been moved, or here.

    The run's word is taken only for a folder that holds a journal of this run, or is named as journal folders are: a store that somebody
    else made must not lead anywhere else.

    Raises:
        InputError: the run's id is no run id.
    """
    said = Path(parent.tags.get(names.SPOOL, FOLDER))
    beside = [Path(uri.removeprefix(_SQLITE)).absolute().parent / FOLDER] if uri.startswith(_SQLITE) else []
    journals = [Spool(folder, parent.run_id) for folder in (said, *beside, FOLDER)]
    default = journals[0] if said.name == FOLDER.name and said.is_dir() else journals[-1]
    return next((journal for journal in journals if journal.path.is_file()), default)


def sweeps(uri: str, experiment_name: str | None = None) -> list[Row]:
    """Return the parent runs of all sweeps, oldest first."""
    return _rows(uri, names.KIND, "sweep", experiment_name)


def find_sweep(uri: str, ref: str, experiment_name: str | None = None) -> Row:
    """Return the parent run of the sweep that `ref` names: by run id, by name, as "latest", or by the one beginning of a name or run id.

    Raises:
        InputError: none or several are called so, or its run id is none.
    """
    by_id = _by_id(uri, ref, experiment_name)
    known = by_id or sweeps(uri, experiment_name)
    matches = by_id or _called(ref, known)
    if len(matches) == 1:
        check_run_id(matches[0].run_id)
        return matches[0]
    place = names.redact(uri) + (f", experiment {experiment_name!r}" if experiment_name else "")
    if matches and any(row.tags.get(names.SWEEP) != ref for row in matches):
        beginning = listed(sorted(row.tags.get(names.SWEEP, "") for row in matches))
        raise InputError(f"{len(matches)} sweeps begin with {ref!r} at {place}; write more of the name: {beginning}.")
    if matches:
        ids = listed(f"{row.run_id} (experiment {row.experiment})" for row in matches)
        raise InputError(f"{len(matches)} sweeps are called {ref!r} at {place}; name one by its run id: {ids}.")
    called = sorted({row.tags.get(names.SWEEP, "") for row in known})
    listing = f" Known: {listed(called, 20)}." if called else " There is no sweep there."
    lost = hint(uri, ref, (row.run_id for row in known))
    raise InputError(f"no sweep {ref!r} at {place}.{suggest(ref, called)}{listing}{lost} Another store goes in as --uri.")


def _called(ref: str, rows: Sequence[Row]) -> list[Row]:
    """Return the sweeps, oldest first, that a reference names by the first rule that names any."""
    by_name = [row for row in rows if row.tags.get(names.SWEEP) == ref]
    newest = list(rows[-1:]) if ref == LATEST else []
    long_enough = len(ref) >= SHORTEST_PREFIX
    by_prefix = [row for row in rows if long_enough and (row.tags.get(names.SWEEP, "").startswith(ref) or row.run_id.startswith(ref))]
    return by_name or newest or by_prefix


def _by_id(uri: str, run_id: str, experiment_name: str | None) -> list[Row]:
    """Return the sweep of a run id, which is looked up without a look at the others."""
    rows = _rows(uri, _RUN_ID, run_id, experiment_name) if RUN_ID.fullmatch(run_id) else []
    return [row for row in rows if row.tags.get(names.KIND) == "sweep"]


def family(uri: str, parent: Row, tags: Sequence[str] = ()) -> tuple[Row, list[Row]]:
    """Return a sweep's parent run as it is now, and the runs of its trials, these with all tags, or at least those of the names `tags`."""
    fresh = next(iter(_rows(uri, _RUN_ID, parent.run_id, parent.experiment)), parent)
    children = _rows(uri, names.PARENT, parent.run_id, parent.experiment, tags)
    return fresh, [row for row in children if names.TRIAL in row.tags or names.RECORD in row.tags]  # others may put runs there, too


def merged(parent: Row, children: Iterable[Row], lines: Sequence[Json]) -> SweepRecord:
    """Put a sweep together from its runs and from the lines that MLflow does not have yet."""
    tags = dict(parent.tags)
    for line in lines:
        tags |= line["tags"] if line.get("op") == "tags" else {names.STATUS: line["status"]} if line.get("op") == "status" else {}
    layers, children = layer_names(from_tags(tags, names.LAYERS)), list(children)
    records = [trial_from_json(record, layers) for row in children if (record := from_tags(row.tags, names.RECORD))]
    records += [trial for line in lines if line.get("op") == "trial" and (trial := _journal_trial(line["trial"], layers))]
    trials = {trial.number: trial for trial in records}
    header = sweep_from_json(from_tags(tags, names.RECORD))
    status = tags.get(names.STATUS, header.status)
    ordered = tuple(trials[number] for number in sorted(trials))
    return replace(header, run_id=parent.run_id, status=status, trials=ordered, measured=_measured(children))


def _measured(children: Iterable[Row]) -> dict[int, tuple[Mapping[str, object], ...]]:
    """Return the times that `bitfront measure` wrote, by the number of the trial."""
    times = dict(timings_of(row.tags[names.MEASURED]) for row in children if names.MEASURED in row.tags)
    return {number: tuple(entries.values()) for number, entries in times.items() if entries}


def _journal_trial(data: Json, layers: Sequence[str]) -> TrialRecord | None:
    """Return a journal's trial; None, with a warning, where it cannot be read."""
    try:
        return trial_from_json(data, layers)
    except BitfrontError as error:
        log.warning("a trial of the journal is left out: %s", error)
        return None


def _rows(uri: str, key: str, value: str, experiment_name: str | None, tags: Sequence[str] = ()) -> list[Row]:
    """Return the active runs whose tag `key` is `value`, or the one of a run id; of a SQLite file with only `tags`, where any are named."""
    if uri.startswith(_SQLITE):
        path = Path(uri.removeprefix(_SQLITE))
        if not path.is_file():
            where, lost = names.redact(f"{uri}: {path.absolute()}"), hint(uri, value, ())
            raise InputError(f"no record at {where} does not exist. Run this where the sweep ran, or give --uri.{lost}")
        try:
            return _sqlite_rows(path, key, value, experiment_name, tags)
        except sqlite3.Error:  # not the tables we know: leave it to MLflow
            pass
    return _client_rows(uri, key, value, experiment_name)


def _sqlite_rows(path: Path, key: str, value: str, experiment_name: str | None, tags: Sequence[str]) -> list[Row]:
    chosen, parameters = (
        ("= ?", [value]) if key == _RUN_ID else ("IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)", [key, value])
    )
    query = (
        "SELECT r.run_uuid, r.start_time, r.experiment_id, t.key, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid"
        f" WHERE r.run_uuid {chosen} AND r.lifecycle_stage = 'active'"
    )
    runs: dict[str, tuple[int | None, int, dict[str, str]]] = {}
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=20)) as database:
        titles = {number: name for number, name in database.execute("SELECT experiment_id, name FROM experiments")}
        keys = [*tags, *(part for tag in tags for (part,) in database.execute(_PARTS, (f"{tag}.[0-9]*",)))]
        query += f" AND t.key IN ({', '.join('?' * len(keys))})" if keys else ""
        for run_id, start, experiment, tag, text in database.execute(query, (*parameters, *keys)):
            if run_id not in runs:
                runs[run_id] = (start, experiment, {})
            runs[run_id][2][tag] = text
    ordered = sorted((start or 0, run_id) for run_id, (start, _, _) in runs.items())
    rows = [Row(run_id, str(runs[run_id][1]), titles[runs[run_id][1]], runs[run_id][2]) for _, run_id in ordered]
    return [row for row in rows if experiment_name in (None, row.experiment)]


def _client_rows(uri: str, key: str, value: str, experiment_name: str | None) -> list[Row]:
    from search.tracking.client import ViewType, connect, reported

    client = connect(uri, FOLDER)
    with reported(uri):
        known = {
            entry.experiment_id: entry.name
            for entry in _pages(lambda token: client.search_experiments(ViewType.ACTIVE_ONLY, page_token=token))
            if experiment_name in (None, entry.name)
        }
        query, runs = f"{'attributes.run_id' if key == _RUN_ID else f'tags.`{key}`'} = {_quoted(value)}", []
        if known:
            runs = _pages(lambda token: client.search_runs(list(known), query, max_results=1000, order_by=["start_time"], page_token=token))
    rows = {run.info.run_id: Row(run.info.run_id, run.info.experiment_id, known[run.info.experiment_id], run.data.tags) for run in runs}
    return list(rows.values())


def _quoted(text: str) -> str:
    """Return a text as MLflow's search language takes it, which knows no escapes."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def _pages(fetch: Any) -> list[Any]:
    """Collect every page of an MLflow search."""
    page = fetch(None)
    entries = list(page)
    while page.token:
        page = fetch(page.token)
        entries += page
    return entries
