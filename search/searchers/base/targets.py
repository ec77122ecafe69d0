"""The limits that a solver with one answer is run under: the problem's, or for several objectives an epsilon sweep along the front."""

from dataclasses import replace

import numpy as np

from search.problem.problem import FloatArray, Problem

Limits = dict[str, float]


def cost_objectives(problem: Problem) -> tuple[str, ...]:
    """Return the objectives that are costs."""
    return tuple(name for name in problem.objectives if name != "error")


def cost_range(problem: Problem, metric: str) -> tuple[float, float]:
    """Return the least cost in reach, and the greatest that a limit allows."""
    ends = problem.ends(metric)
    base = problem.base_cost.get(metric, 0.0)
    low, high = (max(base, *end) if metric in problem.peak else base + float(end.sum()) for end in ends)
    return low, min(high, problem.limits.get(metric, high))


def epsilon_limits(problem: Problem, count: int) -> list[Limits]:
    """Return up to `count` sets of limits, from coarse to fine (the epsilon-constraint method, Haimes et al. 1971).

    One cost objective is limited at a time, at evenly spread shares of its range, beside the limits of the problem. A problem without
    cost objectives has its own limits only.
    """
    metrics = cost_objectives(problem)
    if not metrics:
        return [dict(problem.limits)]
    limits = []
    for share in van_der_corput(max(1, -(-count // len(metrics)))):
        for metric in metrics:
            low, high = cost_range(problem, metric)
            limits.append({**problem.limits, metric: low + share * (high - low)})
    return limits[:count]


def random_limits(problem: Problem, rng: np.random.Generator) -> Limits:
    """Return the problem's limits with one cost objective limited at a random share of its range (none: the problem's own)."""
    metrics = cost_objectives(problem)
    if not metrics:
        return dict(problem.limits)
    metric = metrics[int(rng.integers(len(metrics)))]
    low, high = cost_range(problem, metric)
    return {**problem.limits, metric: low + float(rng.random()) * (high - low)}


def with_limits(problem: Problem, limits: Limits) -> Problem:
    """Return the problem under other limits."""
    return replace(problem, limits=limits)


def van_der_corput(count: int) -> FloatArray:
    """Return `count` shares in (0, 1]: 1, 1/2, 1/4, 3/4, 1/8, ... (van der Corput's sequence), whose every prefix is spread evenly."""
    index = np.arange(count)
    shares, base = np.zeros(count), 0.5
    while index.any():
        shares += base * (index % 2)
        index, base = index // 2, base / 2
    shares[0] = 1.0
    return shares
