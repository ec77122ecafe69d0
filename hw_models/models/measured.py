"""`measured`: times that `bitfront profile` measured on a machine, per shape of layer, codes and SIGNS of both operands.

A shape that was not measured is costed by the calibrated roofline (`roofline.calibrate`) through the shapes of the same kind that
were measured in the same mode, or through those of every kind where there are fewer than `_ENOUGH`, and marked `interpolated`. A mode
that has no kernel runs as the nearest one: a signed activation with an unsigned weight as unsigned, 3, 5 or 6 bits as the next wider
code that was measured, whose bits it also moves.

Where a runtime takes other kernels, and converts numbers, where the inputs of a layer are quantized and those of the layer that follows it
are not, or the other way round, the two take their own times and what was measured for that (rows with `before` or `behind`): a pair of
choices. Modes in which a runtime computes a shape by one kernel have one time, the mean of those measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from hw_models.device import Device
from hw_models.measurements import Measurement, Mode, read_measurements, shape_key
from hw_models.models import FloatArray, GoldenComparison, LayerChoices, LayerCost, LayerModel, Model, Pair
from hw_models.models.lut import LutCompute
from hw_models.models.neighbours import pairs_of, pooled
from hw_models.models.roofline import calibrate, features, leave_one_out
from hw_models.schema.codes import code_bits
from hw_models.schema.device_file import Golden, Table
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError

_ENOUGH = 6
_COEFFICIENTS = 4


class Host(Table):
    """The machine and the software that was measured; a second run continues only on an equal one.

    `runtime` names the runtime, with its version, that computed whole networks; empty where single layers were measured.
    """

    cpu: str
    cores: int
    machine: str
    system: str
    threads: int
    onnxruntime: str
    numba: str
    fingerprint: str
    runtime: str = ""


class MeasuredCompute(LutCompute):
    """The file of measurements, beside the device file, and the machine; `followers`: layer -> the layers that follow it."""

    host: Host
    followers: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  # pydantic copies it


@dataclass(frozen=True, eq=False)
class Fit:
    """The layers, features and times that a calibrated roofline is fitted to."""

    layers: tuple[Layer, ...]
    matrix: FloatArray
    seconds: FloatArray


def build(device: Device) -> LayerModel:
    """Return the look-up of one layer.

    Raises:
        InputError: the file is missing or damaged; on a look-up, nothing was measured in the mode of a choice.
    """
    rows = _rows(device)
    table = {(shape_key(row.layer), row.mode): row.seconds for row in rows}
    measured = {row.mode for row in rows}

    @cache
    def coefficients(kind: str, mode: Mode) -> FloatArray | None:
        fit = fit_of(rows, kind, mode, device.batch)
        return calibrate(fit.matrix, fit.seconds) if fit else None

    def one(layer: Layer, mode: Mode) -> tuple[float, str]:
        exact = table.get((shape_key(layer), mode))
        if exact is not None:
            return exact, ""
        fitted = coefficients(layer.kind, mode)
        if fitted is None:
            raise InputError(_unseen(device, layer, mode))
        return float(_features(layer, mode, device.batch) @ fitted), "interpolated"

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        wanted = [
            mode_of(w, a, policy, measured) for w, a, policy in zip(choices.weight, choices.activation, choices.policies, strict=True)
        ]
        once: Mapping[Mode, tuple[float, str]] = {mode: one(layer, mode) for mode in dict.fromkeys(wanted)}
        seconds = np.array([once[mode][0] for mode in wanted])
        return LayerCost(None, seconds, None, {}, tuple(once[mode][1] for mode in wanted))

    return cost


def pairs(device: Device, layers: Sequence[Layer], choices: Sequence[LayerChoices]) -> tuple[Pair, ...]:
    """Return the time that a layer and one that follows it take more where the inputs of one are quantized, those of the other not."""
    compute = device.compute_as(MeasuredCompute)
    return pairs_of(_rows(device), compute.followers, layers, choices) if compute.followers else ()


def _rows(device: Device) -> tuple[Measurement, ...]:
    return pooled(read_measurements(device.folder / device.compute_as(MeasuredCompute).file, device.batch))


def mode_of(weight: str, activation: str, policy: LayerPolicy, measured: set[Mode]) -> Mode:
    """Return the mode that a choice runs in: that of its codes and signs, or the nearest one that was measured."""
    w_sign, a_sign = ("signed" if spec.symmetric else "unsigned" for spec in (policy.weight, policy.activation))
    signs = ((w_sign, a_sign), (w_sign, "unsigned"), ("signed", "unsigned"), ("unsigned", "unsigned"), ("signed", "signed"), ("", ""))
    candidates = [Mode(weight, activation, *pair) for pair in signs]
    return next((mode for mode in candidates if mode in measured), candidates[0])


def fit_of(rows: Sequence[Measurement], kind: str, mode: Mode, batch: int) -> Fit | None:
    """Return the measurements that a mode is interpolated through: the shapes of `kind`, or of every kind; None where there are too few."""
    every = [row for row in rows if row.mode == mode]
    same = [row for row in every if row.layer.kind == kind]
    used = same if len(same) >= _ENOUGH else every
    if len(used) < _COEFFICIENTS:
        return None
    matrix = np.stack([_features(row.layer, mode, batch) for row in used])
    return Fit(tuple(row.layer for row in used), matrix, np.array([row.seconds for row in used]))


def _features(layer: Layer, mode: Mode, batch: int) -> FloatArray:
    """Return the [4] features of one call; see `roofline.features`."""
    weight_bytes = np.array([layer.weights * code_bits(mode.weight) / 8])
    row: FloatArray = features(layer, batch, weight_bytes, np.array([float(code_bits(mode.activation))]))[0]
    return row


def _unseen(device: Device, layer: Layer, mode: Mode) -> str:
    return (
        f"layer {layer.name!r} ({layer.kind}): neither its shape nor {_COEFFICIENTS} others were measured in {mode} on {device.name}; run "
        f"`bitfront profile --device-name {device.name} --layers FILE` with the layers of this network."
    )


def _checkable(rows: Sequence[Measurement], batch: int) -> list[tuple[Mode, Fit]]:
    """Return every mode and kind of layer with shapes enough to leave one out."""
    measured = dict.fromkeys((row.mode, row.layer.kind) for row in rows if not row.mode.beside)
    fits = [(mode, kind, fit_of(rows, kind, mode, batch)) for mode, kind in measured]
    return [
        (mode, fit) for mode, kind, fit in fits if fit and len(fit.layers) >= _ENOUGH and {layer.kind for layer in fit.layers} == {kind}
    ]


def can_check(rows: Sequence[Measurement], batch: int) -> bool:
    """Tell whether there is anything for `interpolation` to check."""
    return bool(_checkable(rows, batch))


def interpolation(device: Device, golden: Golden) -> GoldenComparison:
    """Check the interpolation by leave-one-out: each measured shape as a fit of the others in the same mode predicts it.

    Raises:
        InputError: nothing was measured in enough shapes.
    """
    checkable = _checkable(read_measurements(device.folder / golden.file, device.batch), device.batch)
    if not checkable:
        raise InputError(f"{golden.file}: no kind of layer was measured in {_ENOUGH} shapes or more; leave this check out.")
    labels = tuple(f"{layer.kind} {layer.weight_shape} on {layer.in_size}, {mode}" for mode, fit in checkable for layer in fit.layers)
    predicted = np.concatenate([leave_one_out(fit.matrix, fit.seconds) for _, fit in checkable])
    return GoldenComparison(labels, np.concatenate([fit.seconds for _, fit in checkable]), predicted)


MODEL = Model(
    MeasuredCompute,
    build,
    "the measured entry; a roofline calibrated on the other entries where there is none",
    {"interpolation": "hw_models.models.measured:interpolation"},
    moves="run",
    pairs=pairs,
)
