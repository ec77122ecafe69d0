"""Every call of HiGHS is in one module, and nothing that HiGHS prints reaches standard output."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
SOLVERS = {"milp", "linprog", "linear_sum_assignment", "highspy", "_highspy"}
CODE = f"""
import ctypes, os, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
import scipy.optimize

def loud(solver):
    def call(*args, **kwargs):
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();\\n")
        ctypes.CDLL(None).printf(b"HiGHS, in the buffer of C\\n")
        return solver(*args, **kwargs)
    return call

scipy.optimize.milp, scipy.optimize.linprog = loud(scipy.optimize.milp), loud(scipy.optimize.linprog)
from search.problem.problem import Problem
from search.searchers.solvers.milp import solve
rng = np.random.default_rng(0)
costs = {{name: tuple(rng.uniform(1, 9, (8, 6))) for name in ("time", "bytes")}}
problem = Problem((6,) * 8, ("error",), tuple((d,) for d in range(8)), costs, {{"time": 30.0, "bytes": 30.0}})
losses, pairs = tuple(rng.uniform(0, 1, (8, 6))), {{(0, 1): rng.uniform(0, 1, (6, 6))}}
assert solve(problem, losses) and solve(problem, losses, (), pairs)
"""


def test_nothing_that_highs_prints_reaches_standard_output() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # C's output too
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=600, env=buffered)
    assert done.stdout == ""
    assert done.stderr.count("transformNewIntegerFeasibleSolution") >= 3
    assert done.stderr.count("in the buffer of C") >= 3


@pytest.mark.parametrize("package", ["bitfront", "quant_core", "spaces", "hw_models", "search"])
def test_only_one_module_calls_highs(package: str) -> None:
    users = [path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py") if _names(path) & SOLVERS]
    assert users == (["search/searchers/solvers/highs.py"] if package == "search" else [])


def _names(path: Path) -> set[str]:
    """Return what a module imports from scipy, and the attributes that it reads."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.ImportFrom | ast.Import) for alias in node.names if _scipy(node, alias)
    }
    return imported | {node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr in {"milp", "linprog"}}


def _scipy(node: ast.ImportFrom | ast.Import, alias: ast.alias) -> bool:
    return "scipy" in ((node.module or "") if isinstance(node, ast.ImportFrom) else alias.name) or alias.name in {"highspy", "_highspy"}
