"""The tables of quantization-aware training and their verdicts, computed from the cells that were measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("PTQ", "AdaRound", "ste", "lsq", "pact", "dorefa", "mad", "ttq", "binary", "codebook")
TRAINED = COLUMNS[2:]
LIMITS = (
    ("W4A4", ("lsq",), 1.0),
    ("ternary, A8 (twn)", ("ste",), 3.0),
    ("ternary, A8 (ttq)", ("ttq",), 3.0),
    ("binary, A8", ("ste", "binary"), 5.0),
)
"""Row, columns, and how many points below float the best of them may be (issue: LSQ 1, ternary 3, binary 5)."""
LOW = ("W3A3", "W2A4")
"""Rows where training is expected over AdaRound over plain rounding."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured figure of the test split.

    Attributes:
        label: of the table: task and network.
        setting: everything else that the figure depends on, as text.
        seed: of the training; of PTQ, AdaRound and float that of the float network.
        row, column: of the table; both "float" for the float network.
        figure: accuracy in percent, or perplexity.
        seconds: CPU time.
    """

    label: str
    setting: str
    seed: int
    row: str
    column: str
    figure: float
    seconds: float


def markdown(cells: Sequence[Cell]) -> str:
    """Return the table of one label and setting: mean ± standard deviation over seeds, as many as were run."""
    used = [column for column in COLUMNS if any(cell.column == column for cell in cells)]
    rows = dict.fromkeys(cell.row for cell in cells if cell.row != "float")
    lines = ["| | " + " | ".join(used) + " |", "|---|" + "---|" * len(used)]
    lines += [f"| {row} | " + " | ".join(_shown(of(cells, row, column)) for column in used) + " |" for row in rows]
    seeds = sorted({cell.seed for cell in cells if cell.column in TRAINED})
    return f"Float: {_shown(of(cells, 'float', 'float'))}. Seeds of the training: {_listed(seeds)}.\n\n" + "\n".join(lines)


def verdicts(cells: Sequence[Cell]) -> list[str]:
    """Return one sentence per limit and per expected order, for the cells of one label: accuracies in percent."""
    sentences = []
    base = _mean(of(cells, "float", "float"))
    for row, columns, limit in LIMITS:
        best = _best(cells, row, columns)
        if best is not None and base is not None:
            gap = base - best[1]
            sentences.append(f"{row}: {best[0]} is {gap:.1f} points below float (limit {limit:g}): {'kept' if gap <= limit else 'missed'}.")
    for row in LOW:
        best, rounded, plain = _best(cells, row, TRAINED), _mean(of(cells, row, "AdaRound")), _mean(of(cells, row, "PTQ"))
        if best is not None and rounded is not None and plain is not None:
            holds = best[1] > rounded > plain
            order = f"{best[0]} {best[1]:.1f}, AdaRound {rounded:.1f}, PTQ {plain:.1f}"
            sentences.append(f"{row}: {order}: {'as expected' if holds else 'not in the expected order'}.")
    return sentences


def section(cells: Sequence[Cell], *, judged: bool) -> str:
    """Return the table and, where the figures are accuracies, the verdicts below it."""
    lines = [f"- {verdict}" for verdict in verdicts(cells)] if judged else []
    return markdown(cells) + ("\n\n" + "\n".join(lines) if lines else "")


def of(cells: Sequence[Cell], row: str, column: str) -> list[float]:
    """Return the figures of one place of the table, one per seed."""
    return [cell.figure for cell in cells if (cell.row, cell.column) == (row, column)]


def write(path: Path, label: str, table: str) -> None:
    """Put the table between the markers `<!-- table LABEL -->` and `<!-- end LABEL -->` of a file."""
    text = path.read_text()
    begin, end = f"<!-- table {label} -->", f"<!-- end {label} -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"{path} has no markers {begin} ... {end}")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def _best(cells: Sequence[Cell], row: str, columns: Sequence[str]) -> tuple[str, float] | None:
    means = {column: mean for column in columns if (mean := _mean(of(cells, row, column))) is not None}
    return max(means.items(), key=lambda item: item[1]) if means else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _shown(values: Sequence[float]) -> str:
    if len(values) > 1:
        return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
    return f"{values[0]:.1f}" if values else ""


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds) or "none"
