"""`Measurement`: one row of `bitfront profile`, per shape of layer and mode, and the CSV form of the rows. Sizes are written `3x3`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hw_models.shapes import need_columns, read_rows
from quant_core.spec.layer import KINDS, Layer
from quant_core.util.errors import InputError

_LATER = ("before", "behind", "computed_by")
"""Columns that tables of earlier versions lack: there they are empty."""
_SIZES = ("weight_shape", "kernel", "stride", "dilation", "in_size", "out_size")
_WHOLE = ("in_channels", "out_channels", "groups", "macs")
COLUMNS = (
    "kind", *_WHOLE, *_SIZES, "weight", "activation", "weight_sign", "activation_sign", *_LATER, "batch", "seconds", "spread", "repeats"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mode:
    """How a layer runs.

    Attributes:
        weight, activation: codes.
        weight_sign, activation_sign: `signed`, `unsigned`; empty where it makes no difference.
        before, behind: the code of the inputs of the layer whose output it reads, and of the layers that read its own, where one of them is
            float and the other not; empty: the layers beside it are as it is itself.
    """

    weight: str
    activation: str
    weight_sign: str = ""
    activation_sign: str = ""
    before: str = ""
    behind: str = ""

    @property
    def beside(self) -> bool:
        """Whether other layers stand before or behind it."""
        return bool(self.before or self.behind)

    def __str__(self) -> str:
        signs = f" ({self.weight_sign}/{self.activation_sign})" if self.weight_sign else ""
        beside = "".join(f", {word} it {code}" for word, code in (("before", self.before), ("behind", self.behind)) if code)
        return f"{self.weight}/{self.activation}{signs}{beside}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured shape in one mode.

    Attributes:
        layer: the shape; its name is empty.
        seconds: the least process CPU time of one call over `repeats`, divided by the number of threads; of a layer that a runtime computed
            within its network, a share of the network's time.
        spread: the median over the repeats, over the least, minus 1.
        kernel: by which a runtime computed it, in `hw_models.runtimes`' words; empty where that is not known.
    """

    layer: Layer
    mode: Mode
    seconds: float
    spread: float
    repeats: int
    kernel: str = ""


def shape_key(layer: Layer) -> tuple[object, ...]:
    """Return the shape of a layer as a key: layers with equal keys take the same time."""
    sizes = tuple(getattr(layer, name) for name in _SIZES if name != "weight_shape")  # a linear layer's may be transposed
    return layer.kind, layer.in_channels, layer.out_channels, layer.groups, layer.weights, *sizes


def shape_only(layer: Layer) -> Layer:
    """Return the shape of a layer: no name, one call, nothing alive beside it, no bias."""
    macs = layer.macs // max(layer.calls, 1)
    kept = (layer.kind, layer.in_channels, layer.out_channels, layer.weight_shape, layer.in_size, layer.out_size, macs)
    return Layer("", *kept, layer.kernel, layer.stride, layer.dilation, layer.groups)


def write_measurements(rows: Sequence[Measurement], batch: int) -> str:
    """Return the CSV text; `read_measurements` gives equal rows."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        layer, mode = row.layer, row.mode
        sizes = ["x".join(map(str, getattr(layer, name))) for name in _SIZES]
        codes = (mode.weight, mode.activation, mode.weight_sign, mode.activation_sign, mode.before, mode.behind, row.kernel)
        whole = [getattr(layer, name) for name in _WHOLE]
        writer.writerow((layer.kind, *whole, *sizes, *codes, batch, repr(row.seconds), repr(row.spread), row.repeats))
    return stream.getvalue()


def read_measurements(path: Path, batch: int) -> tuple[Measurement, ...]:
    """Read a file of measurements.

    Raises:
        InputError: the file is missing, lacks a column, was measured at another batch, or holds a row that is no measurement.
    """
    rows = read_rows(path)
    need_columns(rows, [name for name in COLUMNS if name not in _LATER], path)
    measurements = []
    for number, row in enumerate(rows, 1):
        if row["batch"] != str(batch):
            raise InputError(f"{path}: row {number}: batch {row['batch']}; the device file says {batch}.")
        try:
            layer = _layer(row)
            mode = Mode(
                row["weight"], row["activation"], row["weight_sign"], row["activation_sign"], *(row.get(name) or "" for name in _LATER[:2])
            )
            measurements.append(
                Measurement(layer, mode, float(row["seconds"]), float(row["spread"]), int(row["repeats"]), row.get("computed_by") or "")
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: row {number}: {error}.") from None
    return tuple(measurements)


def _layer(row: dict[str, str]) -> Layer:
    if row["kind"] not in KINDS:
        raise ValueError(f"kind {row['kind'][:80]!r}; legal: {', '.join(KINDS)}")
    ci, co, groups, macs = (int(row[name]) for name in _WHOLE)
    sizes = (tuple(int(size) for size in row[name].split("x") if size) for name in _SIZES)
    weight_shape, kernel, stride, dilation, in_size, out_size = sizes
    return Layer("", row["kind"], ci, co, weight_shape, in_size, out_size, macs, kernel, stride, dilation, groups)
