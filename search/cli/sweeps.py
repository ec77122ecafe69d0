"""`bitfront sweeps`: the recorded sweeps, oldest first, each with its float network, its front and the best policy within its limits."""

import json
from collections.abc import Mapping

import typer

from quant_core.util.errors import BitfrontError
from quant_core.util.reading import parse_toml
from search.cli.front_table import column
from search.cli.options import AsJson, ExperimentName, Uri
from search.cli.table import Column, print_table
from search.cli.terminal import say
from search.config.store import DEFAULT_URI
from search.records.front import Row, front_members, hypervolume_of, row_of
from search.records.record import SweepRecord
from search.records.summary import best
from search.tracking import names, read
from search.tracking.reading import sweeps

_ENTRIES = {"task": "name", "device": "name", "search": "searcher"}  # section of an experiment -> its entry that is shown
_ORDER = (
    "sweep",
    "accuracy_valid",
    "weight_bytes",
    "accuracy_test",
    "status",
    "searcher",
    "task",
    "trials",
    "device",
    "latency_s",
    "hypervolume",
)
"""Columns from the most to the least important one; the others come after these."""
PICKED = ("accuracy_valid", "accuracy_test", "weight_bytes", "latency_s", "energy_j")


def sweeps_command(as_json: AsJson = False, uri: Uri = DEFAULT_URI, mlflow_experiment: ExperimentName = None) -> None:
    """List the recorded sweeps with what they are about and the best policy of each front.

    Example: `bitfront sweeps`
    """
    rows = [_row(uri, parent.run_id, parent.tags, parent.experiment) for parent in sweeps(uri, mlflow_experiment)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        say(f"no sweep at {names.redact(uri)}; `bitfront sweep digits` records one.")
        return
    shown = [name for name in rows[0] if name not in ("run_id", "experiment") and any(row[name] not in (None, "") for row in rows)]
    columns = []
    for name in shown:
        title, texts = column(name, [row[name] for row in rows])
        rank = _ORDER.index(name) if name in _ORDER else len(_ORDER)
        title = "searcher" if name == "search" else title
        columns.append(Column(title, tuple(texts), rank, left=isinstance(rows[0][name], str), name=rank == 0))
    print_table("", columns)


def _row(uri: str, run_id: str, tags: Mapping[str, str], experiment: str) -> Row:
    """Return a sweep's line; one whose record cannot be read says so in place of its figures."""
    try:
        record = read(uri, run_id)
    except BitfrontError as error:
        blank = dict.fromkeys(("trials", *_ENTRIES, "accuracy_float_test", "front", "hypervolume", "best", *PICKED))
        return {"sweep": tags.get(names.SWEEP, ""), "run_id": run_id, "experiment": experiment, "status": f"unreadable: {error}", **blank}
    members = front_members(record)
    first = best(members)
    figures = row_of(record, first, -1) if first else {}
    return {
        "sweep": record.name,
        "run_id": run_id,
        "experiment": experiment,
        "status": record.status,
        "trials": str(len(record.trials)),
        **_about(record),
        "accuracy_float_test": record.baseline.get("accuracy_test"),
        "front": str(len(members)),
        "hypervolume": hypervolume_of(record, members) if members else None,
        "best": figures.get("id"),
        **{name: figures.get(name) for name in PICKED},
    }


def _about(record: SweepRecord) -> Row:
    """Return task, device and searcher, from the experiment that the record holds."""
    try:
        sections = parse_toml(record.experiment, "experiment")
        return {key: str(sections.get(key, {}).get(entry, "")) for key, entry in _ENTRIES.items()}
    except (BitfrontError, AttributeError):
        return dict.fromkeys(_ENTRIES, "")
