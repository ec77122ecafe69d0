"""The tables of docs/export-figures.md, made of the cells that `benchmarks.runtimes` measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.stores import rows, write_tables
from quant_core.spec.policy import parse_layer_policy

START = "<!-- tables: written by python -m benchmarks.runtimes -->"
FLOAT_POLICY = "weight=float"
SHOWN = {
    "digits": "digits, 600 test images, accuracy",
    "efficientnet_lite0": "EfficientNet-Lite0, 100 images of an ImageNet sample, accuracy",
    "minilm": "all-MiniLM-L6-v2, 100 pairs of sentences of 32 tokens, Spearman's correlation",
    "stories260k": "stories260K, a Llama of 260,000 weights, 16 sequences of 256 tokens, top-1 accuracy",
    "llama10m": "llama10m, 16 sequences of 128 tokens, perplexity",
}
"""Network -> heading."""
TITLES = ("weights, inputs", "format", "metric", "top-1 equal", "file bytes", "weights / modelled", "by integers", "1 thread", "2 threads")
LONGEST = 220
"""Characters of a refusal in the page."""
_LAYER, _MORE = re.compile(r"^layer '[^']*': "), re.compile(r" \(and \d+ more layers?\)")


@dataclass(frozen=True, slots=True)
class Time:
    """The time of one example in a runtime.

    Attributes:
        ratio: median of the ratios of neighbouring calls, quantized / float32.
        seconds, float_s: least of the calls.
    """

    ratio: float
    seconds: float
    float_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy of one network in one format.

    Attributes:
        network, policy, form: what was exported; `form` is the format.
        refused: why the format does not hold it; the rest is then empty.
        metric, value: the task's first metric in the runtime.
        agreement: share of predictions whose top-1 is the simulation's.
        file_bytes, payload_bytes, modelled_bytes: of the file, of codes and scales in it, and of them by the cost model; 0: not told.
        integers: layers that are computed by integers or from packed weights, of all.
        times: threads -> time.
        notes: of the exporter.
        processor: that the times were taken on, with the instruction sets that the kernels depend on.
    """

    network: str
    policy: str
    form: str
    refused: str = ""
    metric: str = ""
    value: float = 0.0
    agreement: float = 0.0
    file_bytes: int = 0
    payload_bytes: float = 0.0
    modelled_bytes: float = 0.0
    integers: str = ""
    times: Mapping[str, Time] = field(default_factory=dict)
    notes: Sequence[str] = ()
    processor: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What a cell is not measured twice for."""
        return self.network, self.policy, self.form, self.processor


def read(store: Path) -> list[Cell]:
    """Return the cells of a store, without a last line that was cut short; of cells of one key the last one."""
    cells = {}
    for plain in rows(store):
        times = {threads: Time(**entry) for threads, entry in plain["times"].items()}
        cell = Cell(**plain | {"times": times, "notes": tuple(plain["notes"])})
        cells[cell.key] = cell
    return list(cells.values())


def write(page: Path, cells: Sequence[Cell]) -> None:
    """Write the tables between the two markers of the page: one per network and processor, so that none mixes times of two machines."""
    tables = [
        _section(name, processor, [cell for cell in cells if (cell.network, cell.processor) == (name, processor)])
        for name in SHOWN
        for processor in dict.fromkeys(cell.processor for cell in cells if cell.network == name and not cell.refused)
    ]
    write_tables(page, START, "\n\n".join([*tables, *_refusals(cells)]))


def _section(name: str, processor: str, cells: Sequence[Cell]) -> str:
    told = f"Times: {processor}." if any(cell.times for cell in cells) else f"{processor}; no times were taken."
    timed = [told, ""] if processor else []
    lines = [f"### {SHOWN[name]}", "", *timed, f"| {' | '.join(TITLES)} |", f"|{'---|' * len(TITLES)}"]
    policies = sorted(dict.fromkeys(cell.policy for cell in cells), key=lambda text: text != FLOAT_POLICY)
    lines += [_line(cell) for text in policies for cell in cells if cell.policy == text and not cell.refused]
    return "\n".join(lines)


def _refusals(cells: Sequence[Cell]) -> list[str]:
    """Return the section of what is refused: a line per format and reason, with the networks and policies."""
    refused: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for cell in cells:
        if cell.refused:
            refused.setdefault((cell.form, _sentence(cell.refused)), {}).setdefault(_shown(cell.policy), {})[cell.network] = None
    if not refused:
        return []
    lines = []
    for (form, reason), policies in refused.items():
        where = "; ".join(f"`{policy}` ({', '.join(networks)})" for policy, networks in policies.items())
        lines.append(f"- {form}, {where}: {reason}")
    return ["\n".join(["### Refused", "", *lines])]


def _line(cell: Cell) -> str:
    weights = "" if not cell.payload_bytes or not cell.modelled_bytes else f"{cell.payload_bytes / cell.modelled_bytes:.3f}"
    value = f"{cell.value:.2%}" if cell.metric == "accuracy" else f"{cell.value:.4g}"
    times = (_time(cell.times.get(threads)) for threads in ("1", "2"))
    figures = (value, f"{cell.agreement:.2%}", f"{cell.file_bytes:,}", weights, cell.integers, *times)
    return f"| {_shown(cell.policy)} | {cell.form} | {' | '.join(figures)} |"


def _time(time: Time | None) -> str:
    return "" if time is None else f"{time.ratio:.2f} ({time.seconds * 1e3:.3g} ms)"


def _shown(text: str) -> str:
    policy = parse_layer_policy(text)
    return f"{policy.weight}, {policy.activation}"


def _sentence(reason: str) -> str:
    """Return a refusal as one line, without the name of its first layer and how many more there are, and cut at a word where it is long."""
    line = _LAYER.sub("", _MORE.sub("", " ".join(reason.split())))
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rpartition(' ')[0]} ..."
