"""The problems of the searcher benchmark: HAWQ-V3's two, a table of 16,384 measured policies, and HAQ's latency table for scale.

Sources of `benchmarks/problems/`: `hawqv3_resnet18.json`, `hawqv3_resnet50.json` from Zhen-Dong/HAWQ@1616df69 (MIT), optima proven by
exhaustive search or integer program; `digits_cnn_16384.npz` measured for this project: a 7-layer CNN on scikit-learn's digits, weight
bits {2,3,4,8}^7, validation cross-entropy `ce` of every policy, weights `par` and multiply-accumulates `macs` per layer, the one-pass
Fisher sensitivities `fis`, float figures `fp`. The latency table is `hw_models/devices/haq_vu9p_mobilenetv2.csv`, mit-han-lab/haq (MIT).
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.searchers_pairs import SHAPES, pairs_problem
from hw_models.device import FOLDER
from search.problem.allocation import Allocation, BoundProblem, read
from search.problem.features import PAPER, unit
from search.problem.pareto import hypervolume
from search.problem.problem import FloatArray, Problem, Values
from search.searchers.solvers.ranking import best

PROBLEMS = Path(__file__).parent / "problems"
BITS = np.array([2.0, 3.0, 4.0, 8.0])


@dataclass(frozen=True, eq=False)
class Case:
    """One problem under one budget, with its answer.

    Attributes:
        family: P1, P2, P4, P5 or P6.
        name: metric and ratio of the budget.
        measure: point -> error, as an evaluation returns it.
        best: the least error under the limits.
        uniform: the least error of a uniform policy under the limits.
    """

    family: str
    name: str
    problem: Problem
    measure: Callable[[Values], float]
    best: float
    uniform: float


def cases(families: tuple[str, ...] = ("P1", "P2", "P4", "P5", "P6")) -> list[Case]:
    """Return every case of the named families."""
    made: dict[str, Callable[[], list[Case]]] = {
        "P1": lambda: _hawq("P1", "hawqv3_resnet18.json"),
        "P2": lambda: _hawq("P2", "hawqv3_resnet50.json"),
        "P4": digits,
        "P5": haq_table,
        "P6": pairs,
    }
    return [case for family in families for case in made[family]()]


def bound(allocation: Allocation, metric: str | None, ratio: float | None) -> BoundProblem:
    """Return the problem under the limit that the file's rule gives, or under the file's own limits."""
    if metric is not None and ratio is not None:
        return allocation.problem({metric: allocation.limit(metric, ratio)})
    return allocation.problem(allocation.limits)


def _hawq(family: str, file: str) -> list[Case]:
    allocation = read(PROBLEMS / file)
    cases = []
    for optimum in allocation.optimum:
        problem = bound(allocation, optimum["metric"], optimum["ratio"])
        cases.append(_case(family, f"{optimum['metric']} {optimum['ratio']:g}", problem.problem, problem.loss, optimum["loss"]))
    return cases


def digits() -> list[Case]:
    """Return the five budgets of the exhaustive table: share of the way from all-2-bit to all-8-bit."""
    data = np.load(PROBLEMS / "digits_cnn_16384.npz")
    table = data["ce"].astype(np.float64)
    tables = {"size": data["par"][:, None] * BITS, "macs x bits": data["macs"][:, None] * BITS}
    everything = np.stack(np.unravel_index(np.arange(table.size), table.shape), axis=1).astype(np.int64)
    cases = []
    for metric, ratio in (("size", 0.1), ("size", 0.25), ("size", 0.5), ("macs x bits", 0.12), ("macs x bits", 0.25)):
        low, high = float(tables[metric][:, 0].sum()), float(tables[metric][:, -1].sum())
        problem = _separable(table.shape, tables, {metric: low + ratio * (high - low)}, tuple(data["fis"]), float(data["fp"][0]))
        kept = (problem.excess(everything) <= 0).all(axis=1)
        cases.append(_case("P4", f"{metric} {ratio:g}", problem, lambda values: float(table[values]), float(table.ravel()[kept].min())))
    return cases


def digits_front() -> tuple[Problem, Callable[[Values], float], float]:
    """Return the exhaustive table with two objectives (error, size) and no limit, and the hypervolume of its true front."""
    data = np.load(PROBLEMS / "digits_cnn_16384.npz")
    table = data["ce"].astype(np.float64)
    tables = {"size": data["par"][:, None] * BITS}
    free = _separable(table.shape, tables, {}, tuple(data["fis"]), float(data["fp"][0]))
    problem = replace(free, objectives=("error", "size"))
    everything = np.stack(np.unravel_index(np.arange(table.size), table.shape), axis=1).astype(np.int64)
    points = np.stack([table.ravel(), problem.costs(everything)["size"]], axis=1)
    return problem, lambda values: float(table[values]), hypervolume(points, front_reference(problem))


def front_reference(problem: Problem) -> tuple[float, float]:
    """Return the reference point: cross-entropy of guessing one of ten classes, size of the most expensive policy."""
    return float(np.log(10)), float(sum(table.max() for table in problem.site_cost["size"]))


def haq_table() -> list[Case]:
    """Return HAQ's 53 x 8 x 8 cycles with a synthetic additive sensitivity: weights x 4^-w + activations x 4^-a, summing to 1 at 1 bit."""
    cycles, counts, rows = np.zeros((53, 8, 8)), np.zeros((53, 2)), np.zeros((53, 7))
    with (FOLDER / "haq_vu9p_mobilenetv2.csv").open() as file:
        for row in csv.DictReader(file):
            n, kernel = int(row["index"]), int(row["kernel"])
            cycles[n, int(row["w_bits"]) - 1, int(row["a_bits"]) - 1] = float(row["cycles"])
            fan_in = 1 if row["kind"] == "depthwise" else int(row["in_channels"])
            counts[n] = fan_in * int(row["out_channels"]) * kernel**2, int(row["in_channels"]) * int(row["in_size"]) ** 2
            sizes = [float(row[name]) for name in ("in_channels", "out_channels", "stride", "kernel", "in_size")]
            rows[n] = [row["kind"] == "depthwise", *sizes[:4], counts[n, 0], sizes[4]]
    columns = dict(zip(PAPER, np.repeat(rows, 2, axis=0).T, strict=False)) | {
        "index": np.arange(106) // 2,
        "activation": np.arange(106) % 2,
    }
    seen, names = unit(columns, PAPER)
    scale = counts / counts.sum(axis=0) / 2
    losses = tuple(weight * (4.0 ** -np.arange(8.0) - 4.0**-7.0) for weight in scale.ravel())
    cases = []
    for ratio in (0.45, 0.6):
        problem = Problem(
            cardinalities=(8,) * 106,
            objectives=("error",),
            sites=tuple((2 * n, 2 * n + 1) for n in range(53)),
            site_cost={"cycles": tuple(cycles)},
            limits={"cycles": ratio * float(cycles[:, -1, -1].sum())},
            baselines=tuple((w, a) * 53 for w in range(8) for a in range(8)),
            sensitivity=lambda: losses,
            features=seen,
            feature_names=names,
            float_error=0.0,
        )
        answer = best(problem, losses)
        assert answer is not None
        cases.append(_case("P5", f"cycles {ratio:g}", problem, lambda v: _sum(losses, v), _sum(losses, answer)))
    return cases


def pairs() -> list[Case]:
    """Return the made-up problems of layers that choose a pair of weight and activation bits under two limits."""
    cases = []
    for layers, count in SHAPES:
        problem, measure, answer = pairs_problem(layers, count)
        cases.append(_case("P6", f"{layers} x {count}", problem, measure, measure(answer)))
    return cases


def _sum(losses: tuple[FloatArray, ...], values: Values) -> float:
    return float(sum(table[v] for table, v in zip(losses, values, strict=True)))


def _separable(
    shape: tuple[int, ...], tables: dict[str, FloatArray], limits: dict[str, float], losses: tuple[FloatArray, ...], float_error: float
) -> Problem:
    return Problem(
        cardinalities=shape,
        objectives=("error",),
        sites=tuple((d,) for d in range(len(shape))),
        site_cost={metric: tuple(table) for metric, table in tables.items()},
        limits=limits,
        baselines=tuple((k,) * len(shape) for k in range(shape[0])),
        sensitivity=lambda: losses,
        float_error=float_error,
    )


def _case(family: str, name: str, problem: Problem, measure: Callable[[Values], float], best: float) -> Case:
    uniform = min(measure(values) for values in problem.baselines if problem.feasible(values))
    return Case(family, name, problem, measure, best, uniform)
