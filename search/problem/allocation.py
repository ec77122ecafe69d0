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
            root = [low if each == high else each for each in root]
        return tuple(tuple(layer for layer, each in enumerate(root) if each == first) for first in sorted(set(root)))

    def limit(self, metric: str, ratio: float) -> float:
        """Return the limit of a metric by the file's rule.

        Raises:
            InputError: no such metric, no rule, or the rule is not of the known form.
        """
        if metric not in self.cost:
            raise InputError(f"unknown metric {metric!r}; the file has {', '.join(self.cost)}.{suggest(metric, self.cost)}")
        found = RULE.fullmatch(self.rule)
        if not found or found["low"] not in self.choices or found["high"] not in self.choices:
            raise InputError(
                f"the file states no budget rule for a ratio (budget_rule: {self.rule!r}); allowed: 'limit = cost(all A) + ratio * "
                "(cost(all B) - cost(all A))' with A and B of its choices. Add it, or give `limits` in the file and leave the ratio out."
            )
        low, high = (float(self.cost[metric][:, self.choices.index(found[end])].sum()) for end in ("low", "high"))
        return low + ratio * (high - low)

    def problem(self, limits: Mapping[str, float]) -> "BoundProblem":
        """Return the search problem under `limits`: one dimension per group of tied layers, its choices from cheap to dear."""
        tables = {metric: [each[list(group)].sum(axis=0) for group in self.groups] for metric, each in self.cost.items()}
        loss = [self.loss[list(group)].sum(axis=0) for group in self.groups]
        weigh = [metric for metric in limits if np.ptp(self.cost[metric])] or list(self.cost)
        dear = [sum(tables[metric][g] / max(float(np.abs(self.cost[metric]).sum()), 1e-300) for metric in weigh) for g in range(len(loss))]
        orders = tuple(np.argsort(each, kind="stable") for each in dear)
        ordered = tuple(each[order] for each, order in zip(loss, orders, strict=True))
        uniform = [tuple(int(np.flatnonzero(order == k)[0]) for order in orders) for k in range(len(self.choices))]
        found = Problem(
            cardinalities=(len(self.choices),) * len(orders),
            objectives=("error",),
            sites=tuple((d,) for d in range(len(orders))),
            site_cost={metric: tuple(each[order] for each, order in zip(per, orders, strict=True)) for metric, per in tables.items()},
            limits=dict(limits),
            baselines=tuple(uniform),
            sensitivity=lambda: ordered,
        )
        return BoundProblem(self, found, tuple(tuple(map(int, order)) for order in orders))


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
        return {metric: float(sum(each[layer, k] for layer, k in enumerate(chosen))) for metric, each in self.allocation.cost.items()}


def read(path: Path) -> Allocation:
    """Read an allocation problem.

    Raises:
        InputError: the file is absent or not JSON, or a key is missing or of the wrong shape.
    """
    try:
        given = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the problem {path}: {error.strerror}. Give a JSON file with {', '.join(KEYS)}.") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}. A problem is a JSON object with {', '.join(KEYS)}.") from None
    missing = [key for key in KEYS if not isinstance(given, dict) or key not in given]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing; a problem has {', '.join(KEYS)} and `limits` or `optimum`.")
    choices, layers = tuple(map(str, given["choices"])), tuple(map(str, given["layers"]))
    shape = (len(layers), len(choices))
    limits = {str(metric): float(limit) for metric, limit in given.get("limits", {}).items()}
    cost = {str(metric): _table(path, f"cost.{metric}", rows, shape) for metric, rows in given["cost"].items()}
    for metric, limit in limits.items():
        if metric not in cost or not np.isfinite(limit):
            raise InputError(f"{path}: limits.{metric} = {limit} given; allowed: a finite number for one of {', '.join(cost)}.")
    return Allocation(
        choices=choices,
        layers=layers,
        ties=_ties(path, given.get("ties", []), len(layers)),
        loss=_table(path, "loss", given["loss"], shape),
        cost=cost,
        limits=limits,
        rule=str(given.get("budget_rule", "")),
        optimum=tuple(given.get("optimum", [])),
    )


def _table(path: Path, name: str, rows: object, shape: tuple[int, int]) -> FloatArray:
    try:
        table = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.shape != shape or not np.isfinite(table).all():
        given = f"shape {table.shape}" if table.size and np.isfinite(table).all() else "something else"
        raise InputError(f"{path}: {name} must hold finite numbers in {shape[0]} rows (layers) of {shape[1]} (choices); {given} given.")
    return table


def _ties(path: Path, given: Sequence[Sequence[int]], layers: int) -> tuple[tuple[int, int], ...]:
    pairs = []
    for each in given:
        if len(each) < 2 or any(not isinstance(layer, int) or not 0 <= layer < layers for layer in each):
            raise InputError(f"{path}: tie {each} given; allowed: at least two layer indices from 0 to {layers - 1}.")
        pairs += [(int(each[0]), int(other)) for other in each[1:]]
    return tuple(pairs)
