"""Run the golden values of a device: what the model says against what was published or measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hw_models.models import FloatArray, Points
from hw_models.schema import Golden
from hw_models.shapes import layer_of, need_columns, read_rows
from quant_core.errors import InputError
from quant_core.policy import LayerPolicy
from quant_core.spec import make

if TYPE_CHECKING:
    from hw_models.device import Device

POLICIES = 2000
_COLUMNS = ("index", "kind", "in_channels", "out_channels", "kernel", "stride", "in_size", "batch", "w_bits", "a_bits", "cycles")


@dataclass(frozen=True)
class Check:
    """The outcome of one golden check. Errors are relative, in percent, of n figures.

    Attributes:
        source: title of where the figures come from.
        exact: figures that agree exactly.
        rank: Spearman's rank correlation; NaN where fewer than three figures differ.
        mismatches: the worst rows, in words.
        remarks: further lines to print.
        passed: mean and max error are within the tolerance that the file states.
    """

    device: str
    name: str
    source: str
    n: int
    exact: int
    mean_percent: float
    max_percent: float
    rank: float
    tolerance_mean_percent: float
    tolerance_max_percent: float
    passed: bool
    mismatches: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def validate(device: "Device", golden_path: Path | None = None) -> tuple[Check, ...]:
    """Run every golden check of `device`, or, with `golden_path`, its check of that kind of file on another file.

    Raises:
        InputError: `golden_path` was given, but the device has no check that reads a file; or the file is not readable as one.
    """
    goldens = device.file.golden
    if golden_path is not None:
        reading = [each for each in goldens if each.file and not each.points]
        if not reading:
            raise InputError(f"device {device.name}: no golden check of it reads a CSV file, so --golden has no meaning here.")
        goldens = (replace_file(reading[0], golden_path),)
    return tuple(_run(device, each) for each in goldens)


def replace_file(golden: Golden, path: Path) -> Golden:
    """Return the same check on another file."""
    return golden.model_copy(update={"file": str(path.resolve()), "name": path.name})


def _run(device: "Device", golden: Golden) -> Check:
    check = {**CHECKS, **device.model.checks}[golden.check]
    points = check(device, golden)
    error = relative_percent(points.expected, points.predicted)
    mean, worst = float(error.mean()), float(error.max())
    titles = {each.id: each.title for each in device.file.source}
    ids = (golden.source,) if isinstance(golden.source, str) else golden.source
    order = [i for i in np.argsort(-error, kind="stable")[:5] if error[i] > 0]
    return Check(
        device.name,
        golden.name,
        "; ".join(titles[each] for each in ids),
        len(error),
        int((points.expected == points.predicted).sum()),
        mean,
        worst,
        rank_correlation(points.expected, points.predicted),
        golden.tolerance_mean_percent,
        golden.tolerance_max_percent,
        bool(mean <= golden.tolerance_mean_percent and worst <= golden.tolerance_max_percent),
        tuple(f"{points.labels[i]}: expected {points.expected[i]:.6g}, model {points.predicted[i]:.6g}" for i in order),
        points.remarks,
    )


def relative_percent(expected: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return |predicted - expected| / |expected| in percent, [n]; where 0 is expected anything else counts as 100."""
    scale = np.abs(expected)
    error = np.abs(predicted - expected)
    return np.where(scale > 0, 100 * error / np.where(scale > 0, scale, 1.0), np.where(error > 0, 100.0, 0.0))


def rank_correlation(x: FloatArray, y: FloatArray) -> float:
    """Return Spearman's rank correlation of two arrays [n], ties ranked by their mean; NaN where either is constant or n < 3."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[inverse]
    return ranks


def whole_policies(device: "Device", golden: Golden) -> Points:
    """Compare sums over random policies (2,000, seed 0) of a table of cycles per layer, weight bits and activation bits.

    Raises:
        InputError: the file lacks columns, or layers of it have other bit pairs than the rest.
    """
    measured, predicted, name = _grids(device, golden)
    rng = np.random.default_rng(0)
    pick = rng.integers(measured.shape[1], size=(POLICIES, len(measured)))
    rows = np.arange(len(measured))
    per_entry = relative_percent(measured.ravel(), predicted.ravel())
    remark = f"per entry ({measured.size} of {name}): mean {per_entry.mean():.2f} %, max {per_entry.max():.1f} %"
    labels = tuple(f"policy {i}" for i in range(POLICIES))
    return Points(labels, measured[rows, pick].sum(axis=1), predicted[rows, pick].sum(axis=1), (remark,))


def entries(device: "Device", golden: Golden) -> Points:
    """Compare every entry of a table of cycles per layer, weight bits and activation bits.

    Raises:
        InputError: the file lacks columns, or layers of it have other bit pairs than the rest.
    """
    measured, predicted, _ = _grids(device, golden)
    labels = tuple(f"layer {i}, pair {j}" for i in range(len(measured)) for j in range(measured.shape[1]))
    return Points(labels, measured.ravel(), predicted.ravel())


def _grids(device: "Device", golden: Golden) -> tuple[FloatArray, FloatArray, str]:
    """Return measured and predicted cycles [L, pairs] of a table file."""
    path = device.folder / golden.file
    rows = read_rows(path)
    need_columns(rows, _COLUMNS, path)
    pairs = list(dict.fromkeys((int(row["w_bits"]), int(row["a_bits"])) for row in rows))
    cycles = {(row["index"], int(row["w_bits"]), int(row["a_bits"])): float(row["cycles"]) for row in rows}
    layers = {row["index"]: layer_of(row) for row in rows}
    lacking = [f"layer {name} at {w}/{a}" for name in layers for w, a in pairs if (name, w, a) not in cycles]
    batches = {int(row["batch"]) for row in rows}
    if lacking or batches != {device.batch}:
        given = f"no row for {lacking[0]}" if lacking else f"batches {sorted(batches)} given, the device runs {device.batch}"
        raise InputError(f"{path}: {given}; every layer needs every pair of bits, at the batch of the device.")
    choices = tuple(LayerPolicy(make("int", w, "channel"), make("int", a, "tensor")) for w, a in pairs)
    table = device.table(tuple(layers.values()), dict.fromkeys((each.name for each in layers.values()), choices))
    measured = np.array([[cycles[name, w, a] for w, a in pairs] for name in layers])
    return measured, table.values["latency_s"] * device.clock_hz, path.name


CHECKS: Mapping[str, Callable[["Device", Golden], Points]] = {"policies": whole_policies, "entries": entries}
