"""`bitfront sweeps`: the recorded sweeps, oldest first, each with its float network, its front and the best policy within its limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
from search.records.units import shown
from search.tasks.metrics.info import MetricInfo
from search.tracking import names, read
from search.tracking.reading import sweeps

_ENTRIES = {"task": "name", "device": "name", "search": "searcher"}  # section of an experiment -> its entry that is shown
_ORDER = (
    "sweep",
    "valid",
    "weight_bytes",
    "test",
    "metric",
    "status",
    "searcher",
    "task",
    "trials",
    "device",
    "latency_s",
    "hypervolume",
)
"""Columns from the most to the least important one; the others come after these."""
SPLITS = ("valid", "test", "float_test")
COSTS = ("weight_bytes", "latency_s", "energy_j")


@dataclass(frozen=True)
class _Line:
    """A sweep in the list: what every sweep has, and the figures of its own metric, whose description stands first in `infos`."""

    row: Row
    judged: Mapping[str, float | None] = field(default_factory=dict)
    infos: tuple[MetricInfo, ...] = ()

    def to_json(self) -> Row:
        """Return everything, the figures under the metric's name."""
        return self.row | {f"{self.infos[0].name}_{split}": value for split, value in self.judged.items()}


def sweeps_command(as_json: AsJson = False, uri: Uri = DEFAULT_URI, mlflow_experiment: ExperimentName = None) -> None:
    """List the recorded sweeps with what they are about and the best policy of each front.

    A sweep's figures are those of its own metric.

    Example: `bitfront sweeps`
    """
    lines = [_line(uri, parent.run_id, parent.tags, parent.experiment) for parent in sweeps(uri, mlflow_experiment)]
    if as_json:
        typer.echo(json.dumps([line.to_json() for line in lines], indent=1))
        return
    if not lines:
        say(f"no sweep at {names.redact(uri)}; `bitfront sweep digits` records one.")
        return
    columns = []
    for name in ("metric", *SPLITS, *lines[0].row):
        title, texts = _cells(name, lines)
        rank = _ORDER.index(name) if name in _ORDER else len(_ORDER)
        left = name == "metric" or isinstance(lines[0].row.get(name), str)
        if name not in ("run_id", "experiment") and any(text not in ("", "-") for text in texts):
            columns.append(Column(title, tuple(texts), rank, left=left, name=rank == 0))
    columns.sort(key=lambda column: column.rank > 0)  # the sweep's name first
    print_table("", columns)


def _cells(name: str, lines: Sequence[_Line]) -> tuple[str, list[str]]:
    """Return the title and the cells of a column; where metrics differ, their figures bear their units, and a column says their names."""
    if name not in (*SPLITS, "metric"):
        title, texts = column(name, [line.row[name] for line in lines])
        return "searcher" if name == "search" else title, texts
    metrics = dict.fromkeys(line.infos[0] for line in lines if line.infos)
    if name == "metric":
        return name, [line.infos[0].name if line.infos and len(metrics) > 1 else "" for line in lines]
    values = [line.judged.get(name) for line in lines]
    if len(metrics) == 1:
        (info,) = metrics
        return column(f"{info.name}_{name}", list(values), (info,))
    texts = [shown(line.infos[0].name, value, line.infos) if line.infos else "-" for line, value in zip(lines, values, strict=True)]
    return name.replace("_", " "), texts


def _line(uri: str, run_id: str, tags: Mapping[str, str], experiment: str) -> _Line:
    """Return a sweep's line; one whose record cannot be read says so in place of its figures."""
    try:
        record = read(uri, run_id)
    except BitfrontError as error:
        blank = dict.fromkeys(("trials", *_ENTRIES, "front", "hypervolume", "best", *COSTS))
        head = {"sweep": tags.get(names.SWEEP, ""), "run_id": run_id, "experiment": experiment, "status": f"unreadable: {error}"}
        return _Line(head | blank)
    members, metric = front_members(record), record.infos[0].name
    first = best(members)
    figures = row_of(record, first, -1) if first else {}
    row = {
        "sweep": record.name,
        "run_id": run_id,
        "experiment": experiment,
        "status": record.status,
        "trials": str(len(record.trials)),
        **_about(record),
        "front": str(len(members)),
        "hypervolume": hypervolume_of(record, members) if members else None,
        "best": figures.get("id"),
        **{name: figures.get(name) for name in COSTS},
    }
    judged = {
        "valid": first.result.figures.get(metric) if first else None,
        "test": first.test.get(metric) if first else None,
        "float_test": record.baseline.get(f"{metric}_test"),
    }
    return _Line(row, judged, record.infos)


def _about(record: SweepRecord) -> Row:
    """Return task, device and searcher, from the experiment that the record holds."""
    try:
        sections = parse_toml(record.experiment, "experiment")
        return {key: str(sections.get(key, {}).get(entry, "")) for key, entry in _ENTRIES.items()}
    except (BitfrontError, AttributeError):
        return dict.fromkeys(_ENTRIES, "")
