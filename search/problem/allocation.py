"""Allocation problems as JSON: additive loss and cost tables, ties and limits, with the proven optimum where it is known."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import listed
from search.problem.problem import FloatArray, Problem, Values

RULE = re.compile(r"limit = cost\(all (?P<low>.+?)\) \+ ratio \* \(cost\(all (?P<high>.+?)\) - cost\(all (?P=low)\)\)")
KEYS = ("choices", "layers", "loss", "cost")


@dataclass(frozen=True, eq=False)
class Allocation:
    """One file: pick a choice for each layer; loss and every cost are sums over the layers.

    Attributes:
        choices: K names.
        layers: L names.
        ties: pairs of layer indices that take the same choice.
        loss: [L, K].
        cost: metric -> [L, K].
        limits: metric -> upper limit, where the file states them.
        rule: how a ratio becomes a limit, in words; empty where the file has no rule.
        optimum: known optima: metric, ratio, limit, loss, choice.
    """

    choices: tuple[str, ...]
    layers: tuple[str, ...]
    ties: tuple[tuple[int, int], ...]
    loss: FloatArray
    cost: Mapping[str, FloatArray]
    limits: Mapping[str, float]
    rule: str
    optimum: tuple[Mapping[str, Any], ...]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Layers that are tied, directly or through others: one dimension each, in the order of their first layer."""
        root = list(range(len(self.layers)))
        for a, b in self.ties:
            low, high = sorted((root[a], root[b]))
            root = [low if first == high else first for first in root]
        return tuple(tuple(layer for layer, first in enumerate(root) if first == group) for group in sorted(set(root)))

    def limit(self, metric: str, ratio: float) -> float:
        """Return the limit of a metric by the file's rule.

        Raises:
            InputError: no such metric, no rule, or the rule is not of the known form.
        """
        if metric not in self.cost:
            raise InputError(f"unknown metric {metric!r}; the file has {listed(self.cost)}.{suggest(metric, self.cost)}")
        rule = RULE.fullmatch(self.rule)
        if not rule or rule["low"] not in self.choices or rule["high"] not in self.choices:
            raise InputError(
                f"the file states no budget rule for a ratio (budget_rule: {self.rule!r}); allowed: 'limit = cost(all A) + ratio * "
                "(cost(all B) - cost(all A))' with A and B of its choices. Add it, or give `limits` in the file and leave the ratio out."
            )
        low, high = (float(self.cost[metric][:, self.choices.index(rule[end])].sum()) for end in ("low", "high"))
        return low + ratio * (high - low)

    def problem(self, limits: Mapping[str, float]) -> "BoundProblem":
        """Return the search problem under `limits`: one dimension per group of tied layers, its choices from cheap to expensive."""
        tables = {metric: [table[list(group)].sum(axis=0) for group in self.groups] for metric, table in self.cost.items()}
        loss = [self.loss[list(group)].sum(axis=0) for group in self.groups]
        compared = [metric for metric in limits if np.ptp(self.cost[metric])] or list(self.cost)
        scale = {metric: max(float(np.abs(self.cost[metric]).sum()), 1e-300) for metric in compared}
        expense = [sum(tables[metric][g] / scale[metric] for metric in compared) for g in range(len(loss))]
        orders = tuple(np.argsort(row, kind="stable") for row in expense)
        ordered = tuple(row[order] for row, order in zip(loss, orders, strict=True))
        uniform = [tuple(int(np.flatnonzero(order == k)[0]) for order in orders) for k in range(len(self.choices))]
        problem = Problem(
            cardinalities=(len(self.choices),) * len(orders),
            objectives=("error",),
            sites=tuple((d,) for d in range(len(orders))),
            site_cost={metric: tuple(row[order] for row, order in zip(rows, orders, strict=True)) for metric, rows in tables.items()},
            limits=dict(limits),
            baselines=tuple(uniform),
            sensitivity=lambda: ordered,
        )
        return BoundProblem(self, problem, tuple(tuple(map(int, order)) for order in orders))


@dataclass(frozen=True, eq=False)
class BoundProblem:
    """A search problem and the way back to the file's own layers and choices."""

    allocation: Allocation
    problem: Problem
    orders: tuple[tuple[int, ...], ...]

    def choice(self, values: Values) -> list[int]:
        """Return the choice index per layer of a point."""
        chosen = [0] * len(self.allocation.layers)
        for group, order, value in zip(self.allocation.groups, self.orders, values, strict=True):
            for layer in group:
                chosen[layer] = order[value]
        return chosen

    def loss(self, values: Values) -> float:
        """Return the loss of a point: the sum over the layers."""
        return float(sum(self.allocation.loss[layer, k] for layer, k in enumerate(self.choice(values))))

    def cost(self, values: Values) -> dict[str, float]:
        """Return every cost of a point: the sum over the layers."""
        chosen = self.choice(values)
        return {metric: float(sum(table[layer, k] for layer, k in enumerate(chosen))) for metric, table in self.allocation.cost.items()}


def read(path: Path) -> Allocation:
    """Read an allocation problem.

    Raises:
        InputError: the file is absent or not JSON, or a key is missing or of the wrong shape.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the problem {path}: {error.strerror}. Give a JSON file with {listed(KEYS)}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}. A problem is a JSON object with {listed(KEYS)}.") from None
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path}: {listed(missing)} missing; a problem has {listed(KEYS)} and `limits` or `optimum`.")
    choices, layers = tuple(map(str, content["choices"])), tuple(map(str, content["layers"]))
    shape = (len(layers), len(choices))
    limits = {str(metric): float(limit) for metric, limit in content.get("limits", {}).items()}
    cost = {str(metric): _table(path, f"cost.{metric}", rows, shape) for metric, rows in content["cost"].items()}
    for metric, limit in limits.items():
        if metric not in cost or not np.isfinite(limit):
            raise InputError(f"{path}: limits.{metric} = {limit} given; allowed: a finite number for one of {listed(cost)}.")
    return Allocation(
        choices=choices,
        layers=layers,
        ties=_ties(path, content.get("ties", []), len(layers)),
        loss=_table(path, "loss", content["loss"], shape),
        cost=cost,
        limits=limits,
        rule=str(content.get("budget_rule", "")),
        optimum=tuple(content.get("optimum", [])),
    )


def _table(path: Path, name: str, rows: object, shape: tuple[int, int]) -> FloatArray:
    try:
        table = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.shape != shape or not np.isfinite(table).all():
        fault = f"shape {table.shape}" if table.size and np.isfinite(table).all() else "something else"
        raise InputError(f"{path}: {name} must hold finite numbers in {shape[0]} rows (layers) of {shape[1]} (choices); {fault} given.")
    return table


def _ties(path: Path, ties: Sequence[Sequence[int]], layers: int) -> tuple[tuple[int, int], ...]:
    pairs = []
    for tie in ties:
        if len(tie) < 2 or any(not isinstance(layer, int) or not 0 <= layer < layers for layer in tie):
            raise InputError(f"{path}: tie {tie} given; allowed: at least two layer indices from 0 to {layers - 1}.")
        pairs += [(int(tie[0]), int(other)) for other in tie[1:]]
    return tuple(pairs)
