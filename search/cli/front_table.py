"""The front of a sweep as a table on the terminal: whole, every trial, or the few lines that a sweep ends with."""

import shlex
from collections.abc import Sequence

from quant_core.util.errors import InputError
from quant_core.util.reading import parse_toml
from search.cli.table import Column, print_table
from search.cli.terminal import say, terminal
from search.records.front import Row, front_members, front_rows
from search.records.record import ACCURACY, SweepRecord
from search.records.selection import suggestion
from search.records.summary import front_lines
from search.records.units import cells, shown, title_of, unit_of
from search.tasks.metrics.info import MetricInfo

_NOTHING = (None, "", -1)  # a column that holds nothing else is not shown
_SHORT = ("weight_bytes", "latency_s", "mark")
_RANKS = ("id", "accuracy_valid", "weight_bytes", "mark", "accuracy_test", "latency_s", "energy_j", "status", "reason", "se_", "trial")
"""Columns from the most to the least important one, by how their names begin; the others come after these."""


def print_front(sweep: SweepRecord, rows: list[Row], *, everything: bool = False) -> None:
    """Print the front from small to large with the best uniform policy and the float network, or every trial: a line per policy."""
    members = front_members(sweep)
    failed = sum(trial.result.failed for trial in sweep.trials)
    summary = f"{sweep.name}: {len(sweep.trials)} trials, {failed} failed, {sweep.status}"
    console = terminal()
    if rows:
        lines = rows if everything else front_lines(sweep, members, rows)
        columns = [column for name in lines[0] if (column := _column(sweep, name, [line[name] for line in lines])) is not None]
        print_table(summary, columns, [i for i, line in enumerate(lines) if line["knee"]])
    else:
        console.print(f"{summary}; no policy yet that ended well within the limits")
    left = sweep.baseline.get("left_in_float_bytes")
    if left:
        console.print(f"float network: {shown('weight_bytes', left)} of it stay in float")
    chosen = suggestion(sweep, members)
    if chosen is not None and not everything:
        picked = chosen.trial.policy.id
        say(f"suggested: {picked}, {chosen.note}: bitfront export {shlex.quote(sweep.name)} --pick {picked} --out FOLDER")
    error = _latency_error(sweep) if any(row.get("latency_s") is not None for row in rows) else ""
    if error:
        console.print(error)


def _column(sweep: SweepRecord, name: str, values: list[object]) -> Column | None:
    """Return one column of a front or of all trials; None where it says nothing."""
    constant = [*(f"{info.name}_float_test" for info in (ACCURACY, *sweep.infos)), "float_weight_bytes", "knee"]
    if name in constant or all(value in _NOTHING for value in values) or (name == "fidelity" and {*values} <= {"ptq", None}):
        return None
    if name == "examples" and len({*values}) == 1:
        return None
    title, texts = column(name, values, sweep.metrics)
    last = len(_RANKS)
    rank = next((i for i, beginning in enumerate(_RANKS) if name.startswith(beginning)), last)
    return Column(title, tuple(texts), rank, left=name in ("id", "mark", "reason"), text=name == "reason")


def _latency_error(sweep: SweepRecord) -> str:
    """Return how far off the latencies of a sweep are; empty where its device is not one that ships: a record's path is not opened."""
    try:
        device = parse_toml(sweep.experiment, "experiment").get("device", {}).get("name")
    except (InputError, AttributeError):
        return ""
    from hw_models.loading import device_names, load_device

    error = load_device(device).latency_error if device in device_names() else ""
    return f"{device}: {error}" if error else ""


def print_short_front(sweep: SweepRecord) -> None:
    """Print on standard error the ends of the front, the marked policies, the best uniform one and float, and what is suggested."""
    members = front_members(sweep)
    if not members:
        return
    lines = front_lines(sweep, members, front_rows(sweep, members))
    last = len(members) - 1
    kept = [line for i, line in enumerate(lines) if i in (0, last) or i > last or line["mark"]]
    names = [
        name
        for name in ("id", *(f"{info.name}_{split}" for info in sweep.infos[:1] for split in ("valid", "test")), *_SHORT)
        if name in kept[0]
    ]
    columns = [made for name in names if (made := _column(sweep, name, [line[name] for line in kept])) is not None]
    print_table(f"front: {len(members)} policies, of which", columns, stderr=True)
    chosen = suggestion(sweep, members)
    if chosen is not None:
        say(f"suggested: {chosen.trial.policy.id}, {chosen.note}", stderr=True)


def column(name: str, values: list[object], infos: Sequence[MetricInfo] = ()) -> tuple[str, list[str]]:
    """Return the title and the cells of one column."""
    if not any(isinstance(value, float) for value in values):
        return "" if name == "mark" else name, [
            "-" if value is None else "" if value is False else "*" if value is True else str(value) for value in values
        ]
    if name.startswith("se_"):
        return f"± {name.rpartition('_')[2]}\n%", cells("accuracy", [value if isinstance(value, float) else None for value in values])
    title = f"{title_of(name, infos).removeprefix('accuracy ')}\n{unit_of(name, infos).name}".rstrip()
    return title, cells(name, [value if isinstance(value, float) else None for value in values], infos)
