"""What a sweep may choose, what it costs, and within which limits: from the experiment and the layers, without the network itself."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hw_models.device import Device
from hw_models.table import CostTable, build_table, cost_policy
from quant_core.spec.kv_cache import KV_BYTES, Heads, kv_bytes
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.spec.size import float_bytes
from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from quant_core.util.text import listed
from search.config.experiment import DeviceSection, Experiment, SpaceSection
from search.config.limits import Limit
from search.problem.features import features
from search.problem.problem import FloatArray, IntArray, Problem
from search.sweeps.auto_space import auto_choices
from search.sweeps.pairs import paired
from search.sweeps.ties import Tie
from spaces import rules
from spaces.space import Space

MODEL_BYTES = "model_bytes"
"""Of a budget: the bytes of all parameters, those that stay in float too."""
_KV_REFERENCES = {"float": FLOAT, "int8": parse("int8:token")}
_REFERENCES = {"float": LayerPolicy(FLOAT, FLOAT), "int8": LayerPolicy(parse("int8:channel"), parse("int8:tensor"))}


@dataclass(frozen=True, eq=False)
class Plan:
    """The choices, their costs and the limits.

    Attributes:
        limits: metric -> upper limit in SI units. The budget `model_bytes` is one of all parameters, with the biases and norms that stay
            in float; what they leave of it is the limit of `weight_bytes`.
        heads: of the KV cache; empty where no policy quantizes it.
    """

    experiment: Experiment
    layers: tuple[Layer, ...]
    space: Space
    device: Device
    table: CostTable
    limits: Mapping[str, float]
    heads: Heads = ()


def planned(
    experiment: Experiment,
    layers: tuple[Layer, ...],
    space: Space,
    device: Device,
    metrics: Sequence[str],
    uncounted: float,
    heads: Heads = (),
) -> Plan:
    """Return the plan of a space.

    Args:
        experiment: its `[device]` section is read.
        layers, space, device: of the network, and the target.
        metrics: names of the task's metrics, which a budget may limit too.
        uncounted: bytes of the parameters that are in no `weight_bytes`.
        heads: as in `Plan`.

    Raises:
        InputError: an objective or a budget that there is not.
    """
    table = build_table(device, layers, space.layer_choices)
    _check_objectives(experiment.device, table, metrics, heads)
    limits = _limits(experiment.device, device, table, layers, uncounted, heads)
    return Plan(experiment, layers, space, device, table, limits, heads)


def build_space(layers: Iterable[Layer], section: SpaceSection, device: Device, ties: Sequence[Tie] = ()) -> Space:
    """Return the space that the experiment's choices and rules describe; "auto" are the choices that the device runs.

    Args:
        layers: of the trace.
        section: choices and rules.
        device: its formats are the choices of "auto".
        ties: of the full space; the rules, which may fix or restrict what is tied, come behind.

    Raises:
        InputError: a pattern matches nothing, or a layer is left without a choice.
    """
    layers = list(layers)
    space = full_space(layers, section, device)
    for tie in ties:
        space = rules.tie(space, tie.layers, tie.slot)
    for rule in (rule for rule in section.rules if not rule.untie):
        names = rules.match(layers, rule.fix or rule.restrict or rule.tie)
        if rule.tie:
            space = rules.tie(space, names, rule.slot)
        for slot, choices in (("weight", rule.weight), ("activation", rule.activation)):
            if choices and rule.fix:
                space = rules.fix(space, names, slot, choices[0])
            elif choices:
                space = rules.restrict(space, names, slot, choices)
    return rules.kv_cache(rules.transform(space, section.network), section.kv)


def full_space(layers: Sequence[Layer], section: SpaceSection, device: Device) -> Space:
    """Return the space before ties and rules."""
    if section.weight and section.activation:
        return rules.full(layers, {"weight": section.weight, "activation": section.activation})
    chosen = auto_choices(device, layers)
    weights, activations = (tuple(dict.fromkeys(spec for pair in chosen.values() for spec in pair[slot])) for slot in (0, 1))
    space = rules.full(layers, {"weight": section.weight or weights, "activation": section.activation or activations})
    slots = [slot for slot, specs in (("weight", section.weight), ("activation", section.activation)) if not specs]
    for layer in (layer for layer in layers if layer.calls):
        for slot in slots if layer.takes_activation else [slot for slot in slots if slot == "weight"]:
            space = rules.restrict(space, [layer.name], slot, chosen[layer.name][slot == "activation"])
    return space


def build_problem(plan: Plan, *, float_error: float | None = None) -> Problem:
    """Return the allocation problem that searchers see: cardinalities, objectives, limits and exact cost tables per site.

    What is measured stands first and is called "error" there, also where the experiment minimizes the loss.
    """
    space, table = plan.space, plan.table
    site_cost: dict[str, list[FloatArray]] = {metric: [] for metric in table.metrics}
    names = list(space.base)
    free: set[str] = set()
    placed: dict[int, tuple[int, IntArray]] = {}
    for number, site in enumerate(space.sites):
        touched = {layer for d in site if d < len(space.dimensions) for layer in space.dimensions[d].layers}
        free |= touched
        shape = tuple(space.cardinalities[d] for d in site)
        index = space.layer_index(_grid(space, site, shape))
        placed |= {n: (number, index[:, n]) for n, name in enumerate(names) if name in touched}
        for metric in table.metrics:
            columns = [np.zeros(len(index)), *(table.values[metric][n, index[:, n]] for n, name in enumerate(names) if name in touched)]
            joint = np.max(columns, axis=0) if metric in table.peak else np.sum(columns, axis=0)
            site_cost[metric].append(joint.reshape(shape))
    fixed = [n for n, name in enumerate(names) if name not in free]
    base = {m: float((np.max if m in table.peak else np.sum)([0.0, *(table.values[m][n, 0] for n in fixed)])) for m in table.metrics}
    if plan.heads:
        site_cost[KV_BYTES], base[KV_BYTES] = _kv_cost(plan, site_cost["weight_bytes"])
    pair_cost = paired(table.pairs, placed, site_cost, base)
    seen, names_seen = features(plan.layers, space.dimensions, len(space.cardinalities) - len(space.dimensions))
    problem = Problem(
        cardinalities=space.cardinalities,
        objectives=("error", *plan.experiment.device.objectives[1:]),
        sites=space.sites,
        site_cost={metric: tuple(tables) for metric, tables in site_cost.items()},
        limits=plan.limits,
        pair_cost=pair_cost,
        base_cost=base,
        peak=frozenset(table.peak),
        baselines=rules.uniform(space),
        features=seen,
        feature_names=names_seen,
        float_error=float_error,
    )
    short = plan.experiment.run.minutes or (plan.limits and plan.experiment.search.trials < len(problem.baselines))
    return replace(problem, baselines=_best_first(space, problem)) if short else problem


def _kv_cost(plan: Plan, like: Sequence[FloatArray]) -> tuple[list[FloatArray], float]:
    """Return the bytes of the KV cache per token: the tables of all sites, of which the last one chooses, and what no site changes."""
    space, tables = plan.space, [np.zeros_like(table) for table in like]
    if len(space.kvs) < 2:
        return tables, kv_bytes(plan.heads, space.base.kv)
    return [*tables[:-1], np.array([kv_bytes(plan.heads, spec) for spec in space.kvs])], 0.0


def _best_first(space: Space, problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Return the uniform points within the limits, from the widest integer format down, float last, then those over them likewise.

    A sweep that ends before all of them were evaluated has then evaluated those that answer it.
    """

    def order(values: tuple[int, ...]) -> tuple[bool, int, int]:
        specs = [choice.weight for choice in space.policy(values).values()]
        floats, bits = sum(spec.is_float for spec in specs), sum(spec.bits for spec in specs if not spec.is_float)
        return not problem.feasible(values), floats, -bits

    return tuple(sorted(problem.baselines, key=order))


def _grid(space: Space, site: tuple[int, ...], shape: tuple[int, ...]) -> IntArray:
    """Return every joint choice of one site as points [prod(shape), D], zero in the other dimensions."""
    points = np.zeros((int(np.prod(shape)), len(space.cardinalities)), dtype=np.int64)
    points[:, list(site)] = np.stack([axis.ravel() for axis in np.indices(shape)], axis=1)
    return points


def _check_objectives(section: DeviceSection, table: CostTable, metrics: Sequence[str], heads: Heads) -> None:
    costs = (*table.metrics, *((KV_BYTES,) if heads else ()))
    known = ["error", "loss", *costs]
    for name in (*section.objectives, *section.budget):
        if name == MODEL_BYTES and name in section.budget:
            continue
        if name not in known and (name not in metrics or name in section.objectives):
            raise unknown(f"objective or budget of device {section.name!r}", name, [*known, MODEL_BYTES, *metrics])
    for name, limit in section.budget.items():
        if name in (*costs, MODEL_BYTES) and (limit.bound or limit.of == "points"):
            raise InputError(f"budget {name} with a lower limit or points given; costs have an upper limit: '0.25 of float', or a number.")


def _limits(
    section: DeviceSection, device: Device, table: CostTable, layers: tuple[Layer, ...], uncounted: float, heads: Heads
) -> dict[str, float]:
    """Return every limit in SI units: the device's own (SRAM, flash), and the experiment's budget where that is tighter."""
    costs = (*table.metrics, MODEL_BYTES)
    asked = {name: _limit(name, limit, device, layers, uncounted) for name, limit in section.budget.items() if name in costs}
    if heads and KV_BYTES in section.budget:
        limit = section.budget[KV_BYTES]
        asked[KV_BYTES] = limit.value * (kv_bytes(heads, _KV_REFERENCES[limit.of]) if limit.of else 1.0)
    if MODEL_BYTES in asked:
        asked["weight_bytes"] = min(asked.pop(MODEL_BYTES), asked.get("weight_bytes", math.inf))
    return {name: min(asked.get(name, math.inf), table.limits.get(name, math.inf)) for name in {**asked, **table.limits}}


def _limit(name: str, limit: Limit, device: Device, layers: tuple[Layer, ...], uncounted: float) -> float:
    """Return a limit in SI units; of `model_bytes`, what the parameters that are not in `weight_bytes` leave for that."""
    left = uncounted if name == MODEL_BYTES else 0.0
    if not limit.of:
        return limit.value - left
    metric = "weight_bytes" if name == MODEL_BYTES else name
    if limit.of == "float" and metric == "weight_bytes":
        return limit.value * (float_bytes(layers) + left) - left
    try:
        return limit.value * (reference_cost(device, layers, limit.of)[metric] + left) - left
    except InputError as error:
        raise InputError(f"budget {name} = '{limit.value} of {limit.of}': the device cannot run {limit.of}: {error}") from None


def reference_cost(device: Device, layers: tuple[Layer, ...], reference: str) -> Mapping[str, float]:
    """Return the costs of the network on a device in "float", or in "int8" everywhere.

    Raises:
        InputError: it does not run that.
    """
    return cost_policy(device, layers, rules.uniform_policy(layers, _REFERENCES[reference]))


def check_limits(plan: Plan, left: Mapping[str, float]) -> None:
    """Refuse a limit that no policy of the space can keep; `left` says how many bytes of which parameters stay in float."""
    total, table = sum(left.values()), plan.table
    floats = f" {total:.6g} bytes of parameters stay in float: {listed(left, 4)}." if total else ""
    for name, limit in plan.limits.items():
        if name == KV_BYTES:
            least = [min(kv_bytes(plan.heads, spec) for spec in plan.space.kvs or (plan.space.base.kv,))]
        else:
            least = [float(np.min(table.values[name][n, : len(choices)])) for n, choices in enumerate(plan.space.layer_choices.values())]
            least += [float(pair.added.min()) for pair in table.pairs if pair.metric == name]  # a bound: the least of all at once
        best = max(least) if name in table.peak else sum(least)
        if best > limit:
            raise InputError(
                f"no policy can meet the budget {name} <= {limit:.6g}: the smallest in this space is {best:.6g}. "
                f"Raise the budget to that or more, or allow cheaper formats.{floats if name == 'weight_bytes' else ''}"
            )
