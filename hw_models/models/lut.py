"""`lut`: a table of measured times and energies, per shape of layer and pair of codes.

The CSV has the columns of `hw_models.shapes`, and either `w_bits, a_bits` (integers) or `weight, activation` (codes); `cycles` or
`seconds` for one pass of `batch` examples; optionally `joules`, and `weight_sign, activation_sign` (`signed`: the spec is symmetric,
`unsigned`: affine; empty: either). A shape that was not measured is costed by the file's `[[calibration]]` of that pair and marked
so, or refused where there is none. A code that was not measured itself takes, by the plateaus of the device file, the entry of the
one that it runs as, traffic included.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from hw_models.device import Device
from hw_models.models import FloatArray, LayerChoices, LayerCost, LayerModel, Model
from hw_models.models.roofline import calibrated_s
from hw_models.schema.device_file import Compute
from hw_models.shapes import figure, layer_of, need_columns, read_rows, shape_of
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError

Key = tuple[tuple[object, ...], str, str, str, str]


class LutCompute(Compute):
    """The file of the table, beside the device file."""

    file: str


def read_table(device: Device) -> Mapping[Key, tuple[float, float]]:
    """Return (shape, weight code, activation code, weight sign, activation sign) -> (seconds, joules; NaN where not measured).

    Raises:
        InputError: the file is missing or lacks columns, or was measured at another batch.
    """
    path = device.folder / device.compute_as(LutCompute).file
    rows = read_rows(path)
    coded = "weight" in rows[0]
    time = "seconds" if "seconds" in rows[0] else "cycles"
    need_columns(rows, ("kind", "batch", time, *(("weight", "activation") if coded else ("w_bits", "a_bits"))), path)
    scale = 1.0 if time == "seconds" else 1 / device.clock_hz
    table = {}
    for row in rows:
        if row["batch"] != str(device.batch):
            raise InputError(f"{path}: batch {row['batch']} in a row; the device file says {device.batch}.")
        codes = (row["weight"], row["activation"]) if coded else (f"int{row['w_bits']}", f"int{row['a_bits']}")
        key = (shape_of(layer_of(row)), *codes, row.get("weight_sign") or "", row.get("activation_sign") or "")
        joules = figure(row, "joules", path) if row.get("joules") else float("nan")
        table[key] = figure(row, time, path) * scale, joules
    return table


def build(device: Device) -> LayerModel:
    """Return the look-up of one layer."""
    table = read_table(device)
    fits = {fit.pair: fit for fit in device.file.calibration}

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        shape, seconds, joules, notes = shape_of(layer), [], [], []
        fitted: dict[str, FloatArray] = {}
        for k, policy in enumerate(choices.policies):
            weight, activation = choices.weight[k], choices.activation[k]
            entries = [table[key] for key in _keys(shape, weight, activation, policy.weight, policy.activation) if key in table]
            pair = f"{weight}/{activation}"
            if not entries and pair not in fits:
                raise InputError(_unseen(device, layer, pair, sum(key[0] == shape for key in table)))
            if not entries and pair not in fitted:
                fitted[pair] = calibrated_s(fits[pair], layer, device.batch, choices)
            seconds.append(entries[0][0] if entries else float(fitted[pair][k]))
            joules.append(entries[0][1] if entries else float("nan"))
            notes.append("" if entries else "interpolated")
        energy = {} if np.isnan(joules).any() else {"measured": np.array(joules)}
        return LayerCost(None, np.array(seconds), None, energy, tuple(notes))

    return cost


def _keys(shape: tuple[object, ...], weight: str, activation: str, *specs: QuantSpec) -> Iterable[Key]:
    """Yield the keys that fit, those that name the signs first."""
    w_sign, a_sign = ("signed" if spec.symmetric else "unsigned" for spec in specs)
    return ((shape, weight, activation, w, a) for w in (w_sign, "") for a in (a_sign, ""))


def _unseen(device: Device, layer: Layer, pair: str, same_shape: int) -> str:
    reason = f"its shape was measured, but not at {pair}" if same_shape else "no layer of its shape was measured"
    return (
        f"layer {layer.name!r} ({layer.kind}, {layer.in_channels} to {layer.out_channels} channels, kernel {layer.kernel}, "
        f"input {layer.in_size}): {reason} on {device.name}; use a device with a model, or add a [[calibration]] for {pair}."
    )


MODEL = Model(LutCompute, build, "the measured entry; the calibrated roofline where there is none", moves="run")
