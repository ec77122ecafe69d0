"""Integers of 32 bits: the smallest error of all shifts, and channels that no integers hold."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from quant_core.export.c_integers import fitted
from quant_core.util.errors import InputError

IN_SCALE, IN_STEPS = 1 / 255, 255


def integers(rows: int, columns: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(-127, 128, (rows, columns))


def test_where_all_fits_scales_and_weights_stay_and_the_shift_is_the_largest() -> None:
    weights, scales, bias = integers(3, 50), np.float32([0.01, 0.02, 0.03]), np.array([1.0, -2.0, 0.0])
    held = fitted(weights, scales, bias, IN_SCALE, IN_STEPS, "fc")
    assert held.weights.tolist() == weights.tolist()
    assert held.scales.tolist() == scales.tolist()
    worst = np.abs(weights).sum(axis=1) * IN_STEPS + np.abs(bias) / (scales.astype(float) * IN_SCALE) + 1
    assert held.shift == int(np.floor(31 - np.log2(worst.max())))
    np.testing.assert_allclose(held.bias * scales * IN_SCALE / 2.0**held.shift, bias, atol=held.error)


def test_one_channel_does_not_take_the_bits_of_the_others() -> None:
    """2-bit weights: without a shift, the neighbours' biases would be rounded to steps of 0.1 x 0.33."""
    weights, scales = np.array([[1, -1], [1, 1]]), np.float32([0.1, 1e-8])
    held = fitted(weights, scales, np.array([0.0123, 4.0]), 1 / 3, 3, "fc")
    step = held.scales.astype(float) / 3 / 2.0**held.shift
    np.testing.assert_allclose(held.bias * step, [0.0123, 4.0], rtol=1e-3)
    assert held.shift == 16
    assert held.scales[0] == np.float32(0.1)
    assert held.weights[0].tolist() == [1, -1]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_a_scale_stays(sign: int) -> None:
    held = fitted(integers(1, 4), np.float32([sign * 1e-9]), np.array([3.0]), IN_SCALE, IN_STEPS, "fc")
    assert np.sign(held.scales[0]) == sign
    assert held.bias[0] * held.scales[0] * IN_SCALE / 2.0**held.shift == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "scale", "bias", "message"),
    [
        (np.full((2, 100_000), 127), 0.01, 0.0, "layer 'fc': channel 0: 32 bits hold its bias (0) and its sums only where"),
        (np.full((2, 60_000), 127), 1e-4, 100.0, "layer 'fc': channel 0: 32 bits hold its bias (100) and its sums only where"),
        (np.full((2, 10), 1), np.inf, 0.0, "layer 'fc': channel 0 has a scale or bias that is not finite"),
        (np.full((2, 10), 1), 0.1, np.nan, "layer 'fc': channel 0 has a scale or bias that is not finite"),
    ],
)
def test_a_channel_that_no_integers_hold_is_named(weights: NDArray[np.int64], scale: float, bias: float, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fitted(weights, np.float32([scale]), np.full(2, bias), IN_SCALE, IN_STEPS, "fc")
