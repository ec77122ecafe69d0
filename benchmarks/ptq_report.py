"""The tables of docs/ptq.md, made of the cells that `benchmarks.ptq` measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stores import recorded, write_tables

START = "<!-- tables: written by python -m benchmarks.ptq -->"
_CLASSES = (("accuracy", 100.0, "top-1 %", 1), ("loss", 1.0, "cross-entropy", 3))
SHOWN = {
    "efficientnet_lite0": ("EfficientNet-Lite0, 300 images of an ImageNet sample, calibrated with 64", _CLASSES),
    "efficientnet_lite0_263": ("EfficientNet-Lite0, the same 300 images, calibrated with 263", _CLASSES),
    "mobilenetv2": ("MobileNetV2, Fashion-MNIST, 10,000 images", _CLASSES),
    "minilm": ("all-MiniLM-L6-v2, STS-2015, 1,000 pairs", (("spearman", 100.0, "Spearman x 100", 2),)),
    "stories260k": (
        "stories260K, 64 sequences of 256 tokens",
        (("kld", 1.0, "KL divergence from float, nats", 4), ("loss", 1.0, "cross-entropy", 4)),
    ),
    "llama10m": (
        "Llama of 10.5 M weights, 128 sequences of 128 tokens",
        (("kld", 1.0, "KL divergence from float, nats", 4), ("loss", 1.0, "cross-entropy", 4)),
    ),
    "digits": ("digits, searched with 12 trials", (("loss", 1.0, "cross-entropy", 3), ("drop", 1.0, "accuracy less float, points", 2))),
}
"""Network -> heading and figures: metric, factor, name, decimals."""
ORDER = (
    "float",
    "nearest",
    "nearest, weighted",
    "adaround",
    "gptq",
    "gptq, weighted",
    "reconstruct",
    "nearest, rotated",
    "gptq, smoothed",
    "gptq, rotated",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured policy.

    Attributes:
        network, weight, activation, column: of the table; the column names the method. All "float" for the float network.
        seed: of the calibration examples; of digits that of the float network.
        bits: per weight, with scales. figures: metrics of the test split.
        cost: CPU time of quantizing, in float evaluations of the test split; of digits the CPU seconds of the whole search.
    """

    network: str
    weight: str
    activation: str
    column: str
    seed: int
    bits: float
    figures: dict[str, float]
    cost: float

    @property
    def key(self) -> tuple[object, ...]:
        """What a cell is not measured twice for."""
        return self.network, self.weight, self.activation, self.column, self.seed


def read(store: Path) -> list[Cell]:
    """Return the cells of a store, without a last line that was cut short."""
    return recorded(store, Cell)


def write(page: Path, cells: Sequence[Cell]) -> None:
    """Write the tables of the networks that were measured between the two markers of the page."""
    measured = {cell.network for cell in cells}
    tables = "\n\n".join(_section(name, [cell for cell in cells if cell.network == name]) for name in SHOWN if name in measured)
    write_tables(page, START, tables)


def _section(name: str, cells: Sequence[Cell]) -> str:
    heading, figures = SHOWN[name]
    cost = "CPU s of the search" if name == "digits" else "cost in passes"
    titles = ["weights", "activations", "method", "bits", *(title for _, _, title, _ in figures), cost, "seeds"]
    lines = [f"### {heading}", "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    rows = list(dict.fromkeys((cell.weight, cell.activation) for cell in cells))
    for weight, activation in sorted(rows, key=lambda row: row[0] != "float"):
        group = [cell for cell in cells if (cell.weight, cell.activation) == (weight, activation)]
        columns = sorted(
            {cell.column for cell in group}, key=lambda column: (ORDER.index(column) if column in ORDER else len(ORDER), column)
        )
        lines += [_line([cell for cell in group if cell.column == column], figures) for column in columns]
    return "\n".join(lines)


def _line(cells: Sequence[Cell], figures: Sequence[tuple[str, float, str, int]]) -> str:
    first = cells[0]
    shown = [
        _spread([factor * cell.figures[metric] for cell in cells if metric in cell.figures], places)
        for metric, factor, _, places in figures
    ]
    cost = "" if first.column == "float" else f"{statistics.mean(cell.cost for cell in cells):.2f}"
    bits = statistics.mean(cell.bits for cell in cells)
    return f"| {' | '.join([f'`{first.weight}`', f'`{first.activation}`', first.column, f'{bits:.2f}', *shown, cost, str(len(cells))])} |"


def _spread(values: Sequence[float], places: int) -> str:
    if not values:
        return ""
    spread = f" +- {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{places}f}{spread}"
