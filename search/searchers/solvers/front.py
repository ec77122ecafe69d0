"""The trade-off between an additive loss and one cost: the exact optimum under budgets spread over the whole range."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from search.problem.problem import FloatArray, Problem
from search.searchers.solvers.exact import Solution
from search.searchers.solvers.ranking import optimum

BUDGETS = 16


@dataclass(frozen=True)
class FrontPoint:
    """The best point under one budget.

    Attributes:
        budget: upper limit of the cost.
        cost: of the point.
        solution: the point, its summed loss and the proof.
    """

    budget: float
    cost: float
    solution: Solution


def solved_front(problem: Problem, losses: Sequence[FloatArray], metric: str, budgets: int = BUDGETS) -> list[FrontPoint]:
    """Return the optima under `budgets` evenly spaced limits of `metric`, from the tightest on; the problem's other limits hold, too.

    A budget that allows nothing better than a smaller one gives no point; the last point is the optimum without a budget.

    Args:
        problem: its limit of `metric`, if any, is the largest budget.
        losses: per dimension [K_d].
        metric: a cost of the problem that is a sum over layers.
        budgets: how many, at least 2.
    """
    sites = problem.site_cost[metric]
    least = problem.base_cost.get(metric, 0.0) + sum(float(np.min(table)) for table in sites)
    free = optimum(problem, losses)
    if free is None:
        return []
    top = problem.costs_of(free.values)[metric]
    points: list[FrontPoint] = []
    for budget in np.linspace(least, top, budgets):
        limited = replace(problem, limits={**problem.limits, metric: float(budget) * (1 + 1e-12)})
        solution = optimum(limited, losses) if budget < top else free
        if solution is not None and (not points or solution.loss < points[-1].solution.loss):
            points.append(FrontPoint(float(budget), problem.costs_of(solution.values)[metric], solution))
    return points
