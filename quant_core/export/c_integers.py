"""Integers of one layer of the C header: weights, scales, biases of 32 bits, and the bits that sums have to spare."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant_core.util.errors import InputError

MOST_SHIFT = 16
LARGEST_ERROR = 0.01
"""Of a channel's bias: the most that rounding its weights to the steps of a larger scale may move an output."""
_TOP = 2.0**31 - 2**17


@dataclass(frozen=True, eq=False)
class CIntegers:
    """Weights, scales and biases; a sum of them fits 32 bits for every input.

    Attributes:
        weights: [channels, ...], the shape that was given.
        scales: one, or one per channel.
        bias: in steps of input scale x weight scale / 2^shift.
        shift: bits that the sums are shifted by before the bias is added.
        error: the largest error of any output that rounding can give, in the network's units.
    """

    weights: NDArray[np.int64]
    scales: NDArray[np.float32]
    bias: NDArray[np.int64]
    shift: int
    error: float


def fitted(
    weights: NDArray[np.int64], scales: NDArray[np.float32], bias: NDArray[np.float64], in_scale: float, in_steps: int, layer: str
) -> CIntegers:
    """Return the integers whose sums fit 32 bits with the smallest error.

    A bias may be too large for 32 bits in the steps of a channel with tiny weights. Such a channel gets a larger scale, its weights are
    rounded to it; where that would move outputs, a smaller shift may serve all channels better. Of all shifts the best is returned.

    Args:
        weights: [channels, ...], integers.
        scales: one, or one per channel; negative where a batch norm's gain is.
        bias: per channel, in the network's units.
        in_scale, in_steps: scale of the input, and its largest distance from the zero point.
        layer: its name, for errors.

    Raises:
        InputError: a channel has no integers that are exact enough; it is named.
    """
    if not np.isfinite(bias).all() or not np.isfinite(scales).all():
        channels = np.flatnonzero(~np.isfinite(bias) | ~np.isfinite(np.broadcast_to(scales, bias.shape)))
        raise InputError(f"layer {layer!r}: channel {channels[0]} has a scale or bias that is not finite; no integer stands for it.")
    exact: list[CIntegers] = []
    for shift in range(MOST_SHIFT, -1, -1):
        attempt = _at_shift(weights, scales, bias, in_scale, in_steps, shift)
        inexact = attempt.weight_error > LARGEST_ERROR * np.abs(bias)
        if not inexact.any():
            exact.append(attempt.integers)
        if not attempt.rounded.any():  # smaller shifts only make biases coarser
            break
    if not exact:
        channel = int(np.flatnonzero(inexact)[0])
        raise InputError(
            f"layer {layer!r}: channel {channel}: 32 bits hold its bias ({bias[channel]:.4g}) and its sums only where its weights of scale "
            f"{np.broadcast_to(scales, bias.shape)[channel]:.4g} lose their values; give its input or weights fewer bits, or use onnx."
        )
    return min(exact, key=lambda integers: integers.error)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """Integers at one shift, the channels that have a larger scale, and the most that rounding to it moves an output of each channel."""

    integers: CIntegers
    rounded: NDArray[np.bool_]
    weight_error: NDArray[np.float64]


def _at_shift(
    weights: NDArray[np.int64], scales: NDArray[np.float32], bias: NDArray[np.float64], in_scale: float, in_steps: int, shift: int
) -> _Attempt:
    rows = weights.reshape(len(bias), -1)
    steps = np.broadcast_to(scales.astype(np.float64), bias.shape)
    needed = _needed(rows, np.abs(steps), np.abs(bias), in_scale, in_steps, shift)
    rounded = needed > np.abs(steps)
    larger = np.where(rounded, np.copysign(needed, np.where(steps == 0, 1.0, steps)), steps).astype(np.float32)
    ratio = np.divide(steps, larger, out=np.zeros_like(steps), where=larger != 0)
    kept = np.where(rounded[:, None], np.rint(rows * ratio[:, None]), rows).astype(np.int64)
    moved = np.abs(rows * steps[:, None] - kept * larger.astype(np.float64)[:, None]).sum(axis=1) * in_steps * in_scale
    weight_error = np.where(rounded, moved, 0.0)
    unit = larger.astype(np.float64) * in_scale / 2.0**shift
    exact_bias = np.divide(bias, unit, out=np.zeros_like(bias), where=unit != 0)
    bias_error = np.where(bias == 0, 0.0, 0.5 * np.abs(unit))
    integers = CIntegers(
        kept.reshape(weights.shape),
        larger if rounded.any() else scales,
        np.rint(exact_bias).astype(np.int64),
        shift,
        float((weight_error + bias_error).max()),
    )
    return _Attempt(integers, rounded, weight_error)


def _needed(
    rows: NDArray[np.int64], steps: NDArray[np.float64], bias: NDArray[np.float64], in_scale: float, in_steps: int, shift: int
) -> NDArray[np.float64]:
    """Return per channel the smallest scale at which bias and sums fit 32 bits; the given one where it is enough.

    (sum |q| s / s' + n / 2) x 2^shift + |b| 2^shift / (in_scale s') <= 2^31 - 2^17, where n weights that are not zero may be rounded up.
    """
    sums = np.abs(rows).sum(axis=1) * float(in_steps)
    fine = 2.0**shift
    fits = (sums + 1) * fine * steps + bias * fine / in_scale <= 2.0**31 * steps
    spare = _TOP - 0.5 * np.count_nonzero(rows, axis=1) * in_steps * fine
    with np.errstate(over="ignore"):
        larger = (sums * steps + bias / in_scale) * fine / np.maximum(spare, 1.0) * (1 + 1e-6)
    return np.where(fits, steps, np.maximum(larger, steps * (1 + 1e-6)))
