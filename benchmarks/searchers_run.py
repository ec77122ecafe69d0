"""Runs one searcher on one problem, one evaluation at a time, and measures its best point and its processor time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.searchers_problems import front_reference
from search.problem.pareto import hypervolume
from search.problem.problem import FloatArray, Problem, Trial, Values
from search.searchers import build


@dataclass(frozen=True, eq=False)
class Trace:
    """The outcome of one run.

    Attributes:
        values: the best point under the limits; None when there is none.
        error: its error.
        found_at: evaluations made when it was proposed (0: it is a baseline).
        best: [N] least error under the limits after each evaluation, baselines excluded.
        seconds: the searcher's own processor time: building, asking and telling.
    """

    values: Values | None
    error: float
    found_at: int
    best: FloatArray
    seconds: float


def run(
    problem: Problem,
    measure: Callable[[Values], float],
    searcher: str,
    *,
    seed: int,
    evaluations: int,
    options: Mapping[str, Any] | None = None,
    baselines: bool = True,
    enough: float = -np.inf,
    least: int = 0,
) -> Trace:
    """Tell the baselines (they are not counted), then ask and tell until the evaluations or the searcher's proposals are used up.

    Without `baselines` the problem has none, and the searcher has to find them like every other point.
    A run that has made `least` evaluations ends as soon as its error is at most `enough`, the optimum: nothing can change any more.
    """
    if not baselines:
        options = {"points": problem.baselines} if searcher == "uniform" else options
        problem = replace(problem, baselines=())
    told = [(Trial(-1, values), measure(values)) for values in problem.baselines]
    start, spent = time.process_time(), 0.0
    agent = build(searcher, problem, seed, evaluations, options)
    values: Values | None = None
    error, found_at = float("inf"), 0
    best: list[float] = []
    for baseline, measured in told:
        agent.tell(baseline, (measured,))
    while len(best) < evaluations and not (error <= enough and len(best) >= least):
        trial = agent.ask()
        if trial is None:
            break
        before = time.process_time()
        measured = measure(trial.values)
        spent += time.process_time() - before
        agent.tell(trial, (measured,))
        if measured < error and problem.feasible(trial.values):
            values, error, found_at = trial.values, measured, len(best) + 1
        best.append(error)
    return Trace(values, error, found_at, np.array(best), time.process_time() - start - spent)


def front_run(
    problem: Problem,
    measure: Callable[[Values], float],
    searcher: str,
    *,
    seed: int,
    evaluations: int,
    options: Mapping[str, Any],
    at: tuple[int, ...],
) -> dict[int, float]:
    """Search for the front of (error, size), baselines told first and counted in; return its hypervolume after each number of `at`."""
    agent = build(searcher, problem, seed, evaluations, options)
    points = []

    def both(values: Values) -> tuple[float, float]:
        objectives = measure(values), float(problem.costs(np.array([values], dtype=np.int64))["size"][0])
        points.append(objectives)
        return objectives

    for values in problem.baselines:
        agent.tell(Trial(-1, values), both(values))
    for _ in range(evaluations):
        trial = agent.ask()
        if trial is None:
            break
        agent.tell(trial, both(trial.values))
    first = len(problem.baselines)
    return {n: hypervolume(np.array(points[: first + n]), front_reference(problem)) for n in at if n <= evaluations}
