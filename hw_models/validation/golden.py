"""Golden checks of every model: tables of cycles per layer, weight bits and activation bits, and totals of uniform policies."""

from pathlib import Path

import numpy as np

from hw_models.device import Device
from hw_models.models import FloatArray, GoldenComparison, compare_points
from hw_models.schema.codes import spec_of
from hw_models.schema.device_file import Golden
from hw_models.shapes import figure, layer_of, need_columns, need_whole, read_layers, read_rows
from hw_models.table import build_table, cost_policy
from hw_models.validation.figures import relative_percent
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.text import listed

POLICIES = 2000
_COLUMNS = ("index", "kind", "in_channels", "out_channels", "kernel", "stride", "in_size", "batch", "w_bits", "a_bits", "cycles")


def whole_policies(device: Device, golden: Golden) -> GoldenComparison:
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
    return GoldenComparison(names, measured[rows, pick].sum(axis=1), predicted[rows, pick].sum(axis=1), (remark,))


def entries(device: Device, golden: Golden) -> GoldenComparison:
    """Compare every entry of a table of cycles per layer, weight bits and activation bits.

    Raises:
        InputError: the file lacks columns, or is for another batch than the device.
    """
    measured, predicted, labels = _grids(device, golden)
    there = np.flatnonzero(~np.isnan(measured.ravel()))
    return GoldenComparison(tuple(labels[i] for i in there), measured.ravel()[there], predicted.ravel()[there])


def _grids(device: Device, golden: Golden) -> tuple[FloatArray, FloatArray, list[str]]:
    """Return measured (NaN where the file has no row) and predicted cycles [L, pairs] of a table file, and a label per entry."""
    path = device.folder / golden.file
    rows = read_rows(path)
    need_columns(rows, _COLUMNS, path)
    need_whole(rows, ("batch", "w_bits", "a_bits"), path)
    pairs = list(dict.fromkeys((row["w_bits"], row["a_bits"]) for row in rows))
    batches = {row["batch"] for row in rows}
    if batches != {str(device.batch)}:
        raise InputError(f"{path}: batch {listed(sorted(batches))} given; {device.name} runs batches of {device.batch}.")
    layers = _layers_by_index(rows, path)
    choices = tuple(LayerPolicy(spec_of(f"int{w}"), spec_of(f"int{a}")) for w, a in pairs)
    table = build_table(device, tuple(layers.values()), dict.fromkeys((layer.name for layer in layers.values()), choices))
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


def uniform_cycles(device: Device, golden: Golden) -> GoldenComparison:
    """Compare the total cycles of uniform policies over the layers of a file; a point gives its `bits`."""
    layers = read_layers(device.folder / golden.file)
    predicted = []
    for point in golden.points:
        bits = int(point.given["bits"])
        choice = LayerPolicy(spec_of(f"int{bits}"), spec_of(f"int{bits}"))
        predicted.append(cost_policy(device, layers, {layer.name: choice for layer in layers})["latency_s"] * device.clock_hz)
    return compare_points(golden, predicted)
