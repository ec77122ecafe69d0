"""Run the golden values of a device: what the model says against what was published or measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hw_models.models import FloatArray, Points
from hw_models.schema.codes import spec_of
from hw_models.schema.device_file import Golden
from hw_models.shapes import figure, layer_of, need_columns, need_whole, read_layers, read_rows
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError

if TYPE_CHECKING:
    from hw_models.device import Device

POLICIES = 2000
_ROUNDING = 1e-12  # what a conversion from cycles to seconds and back leaves
_COLUMNS = ("index", "kind", "in_channels", "out_channels", "kernel", "stride", "in_size", "batch", "w_bits", "a_bits", "cycles")


@dataclass(frozen=True)
class Check:
    """The outcome of one golden check. Errors are relative, in percent, of n figures.

    Attributes:
        source: title of where the figures come from.
        exact: figures that agree to the last digits of a float64.
        rank: Spearman's rank correlation; NaN where fewer than three figures differ.
        passed: mean and max error are within the tolerance that the file states; a max of 0 asks for every row to be exact.
        mismatches: the worst rows, in words; the first ones where every row has to be exact.
        remarks: further lines to print.
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
    points = {**CHECKS, **device.model.checks}[golden.check](device, golden)
    error = relative_percent(points.expected, points.predicted)
    exact = error == 0 if points.exact is None else points.exact
    mean, worst = float(error.mean()), float(error.max())
    within = mean <= golden.tolerance_mean_percent and worst <= golden.tolerance_max_percent
    all_exact = golden.tolerance_max_percent == 0
    order = np.flatnonzero(~exact) if all_exact else np.argsort(-np.where(exact, 0.0, error), kind="stable")
    titles = {each.id: each.title for each in device.file.source}
    ids = (golden.source,) if isinstance(golden.source, str) else golden.source
    return Check(
        device.name,
        golden.name,
        "; ".join(titles[each] for each in ids),
        len(error),
        int(exact.sum()),
        mean,
        worst,
        rank_correlation(points.expected, points.predicted),
        golden.tolerance_mean_percent,
        golden.tolerance_max_percent,
        bool(exact.all() if all_exact else within),
        tuple(
            f"{points.labels[i]}: expected {points.expected[i]:.10g}, model {points.predicted[i]:.10g}" for i in order[:5] if not exact[i]
        ),
        points.remarks,
    )


def relative_percent(expected: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return |predicted - expected| / |expected| in percent, [n]; where 0 is expected anything else counts as 100."""
    scale = np.abs(expected)
    error = np.abs(predicted - expected)
    error = np.where(error <= _ROUNDING * scale, 0.0, error)
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
        InputError: the file lacks columns, or a layer lacks a pair of bits that another has.
    """
    measured, predicted, labels = _grids(device, golden)
    if np.isnan(measured).any():
        lacking = labels[int(np.isnan(measured).argmax())]
        raise InputError(f"{golden.file}: no row for {lacking}; to draw whole policies every layer needs every pair of bits.")
    rng = np.random.default_rng(0)
    pick = rng.integers(measured.shape[1], size=(POLICIES, len(measured)))
    rows = np.arange(len(measured))
    per_entry = relative_percent(measured.ravel(), predicted.ravel())
    remark = f"per entry ({measured.size}): mean {per_entry.mean():.2f} %, max {per_entry.max():.1f} %"
    names = tuple(f"policy {i}" for i in range(POLICIES))
    return Points(names, measured[rows, pick].sum(axis=1), predicted[rows, pick].sum(axis=1), (remark,))


def entries(device: "Device", golden: Golden) -> Points:
    """Compare every entry of a table of cycles per layer, weight bits and activation bits.

    Raises:
        InputError: the file lacks columns, or is for another batch than the device.
    """
    measured, predicted, labels = _grids(device, golden)
    there = np.flatnonzero(~np.isnan(measured.ravel()))
    return Points(tuple(labels[i] for i in there), measured.ravel()[there], predicted.ravel()[there])


def _grids(device: "Device", golden: Golden) -> tuple[FloatArray, FloatArray, list[str]]:
    """Return measured (NaN where the file has no row) and predicted cycles [L, pairs] of a table file, and a label per entry."""
    path = device.folder / golden.file
    rows = read_rows(path)
    need_columns(rows, _COLUMNS, path)
    need_whole(rows, ("batch", "w_bits", "a_bits"), path)
    pairs = list(dict.fromkeys((row["w_bits"], row["a_bits"]) for row in rows))
    batches = {row["batch"] for row in rows}
    if batches != {str(device.batch)}:
        raise InputError(f"{path}: batch {', '.join(sorted(batches))} given; {device.name} runs batches of {device.batch}.")
    layers = _layers_by_index(rows, path)
    choices = tuple(LayerPolicy(spec_of(f"int{w}"), spec_of(f"int{a}")) for w, a in pairs)
    table = device.table(tuple(layers.values()), dict.fromkeys((each.name for each in layers.values()), choices))
    measured = np.full((len(layers), len(pairs)), np.nan)
    places = {name: position for position, name in enumerate(layers)}
    for row in rows:
        measured[places[row["index"]], pairs.index((row["w_bits"], row["a_bits"]))] = figure(row, "cycles", path)
    labels = [f"layer {name} at {w}/{a}" for name in layers for w, a in pairs]
    return measured, table.values["latency_s"] * device.clock_hz, labels


def _layers_by_index(rows: list[dict[str, str]], path: Path) -> dict[str, Layer]:
    """Return the layer of every index.

    Raises:
        InputError: rows of one index describe different layers, or one entry is given twice.
    """
    layers: dict[str, Layer] = {}
    seen: set[tuple[str, str, str]] = set()
    for number, row in enumerate(rows, 1):
        index, entry = row["index"], (row["index"], row["w_bits"], row["a_bits"])
        layer = layer_of(row)
        if layers.setdefault(index, layer) != layer:
            raise InputError(f"{path}: row {number} describes layer {index} otherwise than a row before it; give one shape per index.")
        if entry in seen:
            raise InputError(f"{path}: row {number} gives layer {index} at {'/'.join(entry[1:])} bits a second time; give it once.")
        seen.add(entry)
    return layers


def uniform_cycles(device: "Device", golden: Golden) -> Points:
    """Compare the total cycles of uniform policies over the layers of a file; a point gives its `bits`."""
    layers = read_layers(device.folder / golden.file)
    predicted = []
    for point in golden.points:
        bits = int(point.given["bits"])
        choice = LayerPolicy(spec_of(f"int{bits}"), spec_of(f"int{bits}"))
        predicted.append(device.cost(layers, {each.name: choice for each in layers})["latency_s"] * device.clock_hz)
    return Points(tuple(point.name for point in golden.points), np.array([point.expected for point in golden.points]), np.array(predicted))


CHECKS: Mapping[str, Callable[["Device", Golden], Points]] = {
    "policies": whole_policies,
    "entries": entries,
    "uniform_cycles": uniform_cycles,
}
