"""Estimated sensitivities on the scale of measured ones, and which choices are worth a measurement. Free of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.problem.problem import FloatArray

Choice = tuple[int, int]
"""A dimension and one of its choices."""
TINY = 1e-12
SPREAD = 0.7
"""Standard deviation of the logarithm of measured / estimated before anything is measured: a factor of two."""
SLOPES = (0.5, 1.5)
"""Bounds of the exponent between estimated and measured rises."""
PLANS = 24
"""Multipliers at which the trade of loss against cost is solved."""


@dataclass(frozen=True, eq=False)
class Estimates:
    """Rises of the divergence of all choices before and after calibration.

    Attributes:
        rises: per dimension [K_d].
        spreads: per dimension [K_d], standard deviation of the logarithm of the true rise over this one; 0 where it is measured, as
            measuring it again tells nothing new.
    """

    rises: tuple[FloatArray, ...]
    spreads: tuple[FloatArray, ...]


def calibrated(
    rises: Sequence[FloatArray],
    errors: Sequence[FloatArray],
    slots: Sequence[str],
    measured: Mapping[Choice, float],
    noise: Mapping[Choice, float] | None = None,
) -> Estimates:
    """Return the rises fitted to the measured ones, as the mean of a posterior over their logarithms.

    Per slot a power law, log m = a + b log r, by least squares with b within `SLOPES`. What a dimension's true rises lie off the law is
    normal: half of the variance is common to its choices, and all of it is larger where its measurements lie far off. A measurement is the
    true rise and noise, so it counts by its precision beside that of the estimate. Where there is no estimate it stands alone.

    Args:
        rises: per dimension [K_d] of the estimates.
        errors: per dimension [K_d] relative standard errors of the estimates.
        slots: per dimension.
        measured: (dimension, choice) -> measured rise.
        noise: (dimension, choice) -> its relative standard error; 0 where it is not named.
    """
    noise = noise or {}
    fitted, spreads = [np.array(row) for row in rises], [np.sqrt(SPREAD**2 + error**2) for error in errors]
    for slot in dict.fromkeys(slots):
        members = [d for d, name in enumerate(slots) if name == slot]
        pairs = [(d, k) for d, k in measured if slots[d] == slot and measured[d, k] > TINY and rises[d][k] > TINY]
        offset, slope, spread = _power_law(np.log([rises[d][k] for d, k in pairs]), np.log([measured[pair] for pair in pairs]))
        for d in members:
            logs = offset + slope * np.log(np.maximum(np.abs(rises[d]), TINY))
            at = [k for e, k in pairs if e == d]
            residuals = np.array([np.log(measured[d, k]) - logs[k] for k in at])
            shift, spreads[d] = _posterior(np.sqrt(spread**2 + errors[d] ** 2), at, residuals, [noise.get((d, k), 0.0) for k in at])
            fitted[d] = np.sign(rises[d]) * np.exp(logs + shift)
    for (d, k), rise in measured.items():
        if rise <= TINY or rises[d][k] <= TINY:
            share = spreads[d][k] ** 2 / (spreads[d][k] ** 2 + noise.get((d, k), 0.0) ** 2)
            fitted[d][k] += (share if abs(rises[d][k]) > TINY else 1.0) * (rise - fitted[d][k])
        elif not noise.get((d, k)):
            fitted[d][k] = rise
        spreads[d][k] = 0.0
    return Estimates(tuple(fitted), tuple(spreads))


def _posterior(deviations: FloatArray, at: Sequence[int], residuals: FloatArray, noise: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation [K] of normal values of prior mean 0 and `deviations` [K], half of their variance common.

    Args:
        deviations: [K], prior.
        at: which of the values were measured.
        residuals: the measurements.
        noise: standard deviation of each measurement.
    """
    prior = 0.5 * (np.outer(deviations, deviations) + np.diag(deviations**2))
    variance = np.diag(prior)[at] + np.square(noise)
    prior = prior * max(1.0, (1.0 + float((residuals**2 / variance).sum())) / (1 + len(at)))
    gain = np.linalg.solve(prior[np.ix_(at, at)] + np.diag(np.square(noise)), prior[at]).T if at else np.zeros((len(prior), 0))
    left = np.diag(prior) - (gain * prior[:, at]).sum(axis=1)
    return gain @ residuals, np.sqrt(np.maximum(left, 0.0))


def _power_law(x: FloatArray, y: FloatArray) -> tuple[float, float, float]:
    """Return offset, slope and the standard deviation of the residuals, each drawn towards its value before any measurement."""
    if len(x) < 2:
        return (float((y - x).sum()) / (len(x) + 1), 1.0, SPREAD)
    centered = x - x.mean()
    slope = float((centered @ (y - y.mean()) + 1.0) / (centered @ centered + 1.0))
    slope = float(np.clip(slope, *SLOPES))
    offset = float((y - slope * x).mean())
    residuals = y - offset - slope * x
    return offset, slope, float(np.sqrt((residuals @ residuals + SPREAD**2) / (len(x) - 1)))


def worth_measuring(
    estimates: Estimates,
    costs: Sequence[FloatArray],
    slots: Sequence[str],
    passes: Sequence[float],
    budget: float,
) -> list[Choice]:
    """Return the choices whose measurement is likeliest to change a plan, per pass, within `budget` passes.

    A plan minimizes rise + multiplier * cost in every dimension; `PLANS` multipliers span the front of a slot. A choice counts by its
    uncertainty relative to the loss of the plan, and by how near it is to being part of it. Choices that another one beats in both
    rise and cost, beyond what the spreads leave open, are never measured.

    Args:
        estimates: of all choices; measured ones have no spread.
        costs: per dimension [K_d].
        slots: per dimension; each has a front of its own.
        passes: per dimension, what measuring one choice costs.
        budget: what may be spent.
    """
    gains: dict[Choice, float] = {}
    for slot in dict.fromkeys(slots):
        members = [d for d, name in enumerate(slots) if name == slot]
        gains |= _gains(estimates, costs, members)
    picked, left = [], budget
    for d, k in sorted(gains, key=lambda choice: gains[choice] / max(passes[choice[0]], TINY), reverse=True):
        if gains[d, k] > 0 and passes[d] <= left:
            picked.append((d, k))
            left -= passes[d]
    return picked


def _gains(estimates: Estimates, costs: Sequence[FloatArray], members: Sequence[int]) -> dict[Choice, float]:
    rises = {d: np.maximum(estimates.rises[d], 0.0) for d in members}
    open_choices = {d: ~dominated(estimates.rises[d], estimates.spreads[d], costs[d]) for d in members}
    gains = {d: np.zeros(len(rises[d])) for d in members}
    for multiplier in _multipliers(rises, costs):
        totals = {d: rises[d] + multiplier * costs[d] for d in members}
        loss = sum(float(rises[d][totals[d].argmin()]) for d in members) + TINY
        for d in members:
            doubt = estimates.spreads[d] * rises[d]
            gains[d] += doubt / loss * np.exp(-(totals[d] - totals[d].min()) / (doubt + TINY))
    return {(d, k): float(gain) for d in members for k, gain in enumerate(gains[d]) if open_choices[d][k] and estimates.spreads[d][k] > 0}


def dominated(rises: FloatArray, spreads: FloatArray, costs: FloatArray) -> NDArray[np.bool_]:
    """Return [K]: whether another choice costs no more and, with both spreads against it, has a smaller rise."""
    ends = np.stack([rises * np.exp(-spreads), rises * np.exp(spreads)])
    low, high = ends.min(axis=0), ends.max(axis=0)
    beats = (costs[None, :] <= costs[:, None]) & (high[None, :] < low[:, None])
    beaten: NDArray[np.bool_] = beats.any(axis=1)
    return beaten


def _multipliers(rises: Mapping[int, FloatArray], costs: Sequence[FloatArray]) -> FloatArray:
    """Return multipliers between the smallest and the largest fall of the rise per cost of any step to the next choice."""
    slopes = []
    for d, row in rises.items():
        order = np.argsort(costs[d], kind="stable")
        steps, falls = np.diff(costs[d][order]), -np.diff(row[order])
        slopes += list(falls[(steps > 0) & (falls > TINY)] / steps[(steps > 0) & (falls > TINY)])
    return np.quantile(slopes, np.linspace(0.0, 1.0, PLANS)) if slopes else np.zeros(1)
