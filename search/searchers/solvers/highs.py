"""The calls of HiGHS, all of them: its compiled code prints debug lines on standard output, where only results belong."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_array

from quant_core.util.quiet import quiet_stdout
from search.problem.problem import FloatArray, IntArray

ABSOLUTE_GAP = 1e-6
"""Nodes whose bound is within this of the best point are dropped (HiGHS's mip_abs_gap, which scipy does not pass on)."""


def integer_program(
    objective: FloatArray, whole: IntArray, bounds: Bounds, constraints: list[LinearConstraint], nodes: int
) -> OptimizeResult:
    """Return scipy's result of the least `objective` with the variables of `whole` integer, relative gap 0, after at most `nodes` nodes."""
    with quiet_stdout():
        return milp(objective, integrality=whole, bounds=bounds, constraints=constraints, options={"mip_rel_gap": 0.0, "node_limit": nodes})


def prices(objective: FloatArray, rows: FloatArray, budget: FloatArray, ones: csr_array) -> FloatArray:
    """Return [M] >= 0: the dual values of `rows` x <= `budget` in the linear program with `ones` x = 1, x >= 0; zeros where it fails."""
    with quiet_stdout():
        result = linprog(  # type: ignore[call-overload]  # the stubs know dense matrices only
            objective, A_ub=rows, b_ub=budget, A_eq=ones, b_eq=np.ones(ones.shape[0]), bounds=(0, None), method="highs"
        )
    if result.x is None:
        return np.zeros(len(budget))
    duals: FloatArray = np.maximum(-np.asarray(result.ineqlin.marginals, dtype=np.float64), 0.0)
    return duals
