"""From an experiment to everything that a sweep needs: task, layers, space, device, cost table, limits, fingerprints."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hw_models.device import Device
from hw_models.loading import load_device
from hw_models.table import CostTable, build_table, cost_policy
from quant_core.network.coverage import Coverage, coverage
from quant_core.network.trace import trace
from quant_core.qat.population import PopulationConfig
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.spec.size import float_bytes
from quant_core.transforms.apply import untied
from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from quant_core.util.text import listed
from search import tasks
from search.config.experiment import DeviceSection, Experiment, SpaceSection
from search.config.limits import Limit
from search.config.schedulers import POPULATION
from search.evaluation.measure import traced_inputs
from search.problem.features import features
from search.problem.problem import FloatArray, IntArray, Problem
from search.sweeps.auto_space import auto_choices
from search.sweeps.fingerprints import hash_data, hash_space, hash_tensors
from search.sweeps.held import Dropped, held
from search.sweeps.phases import Report, silent
from search.sweeps.quality import judged_by, metric_names
from search.sweeps.ties import Tie, default_ties, needed
from search.tasks.stream import sized
from search.tasks.task import Task
from spaces import rules
from spaces.space import Space

MODEL_BYTES = "model_bytes"
"""Of a budget: the bytes of all parameters, those that stay in float too."""
_REFERENCES = {"float": LayerPolicy(FLOAT, FLOAT), "int8": LayerPolicy(parse("int8:channel"), parse("int8:tensor"))}


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything about a sweep that follows from its experiment alone.

    Attributes:
        limits: metric -> upper limit in SI units. The budget `model_bytes` is one of all parameters, with the biases and norms that stay
            in float; what they leave of it is the limit of `weight_bytes`.
        fingerprints: hashes of weights, data and space; a resumed sweep must have the same.
        coverage: how much of the network's parameters the space covers, and what stays in float.
        ties: the choices that agree because the device or an export format needs it.
        dropped: the choices that an export format does not hold.
    """

    experiment: Experiment
    task: Task
    layers: tuple[Layer, ...]
    space: Space
    device: Device
    table: CostTable
    limits: Mapping[str, float]
    fingerprints: Mapping[str, str]
    coverage: Coverage
    ties: tuple[Tie, ...] = ()
    dropped: tuple[Dropped, ...] = ()


def prepare(experiment: Experiment, task: Task | None = None, report: Report = silent) -> Setup:
    """Load the task (unless one is given), trace the network, build the space and the cost table, and read what the experiment asks for.

    Raises:
        InputError: anything in the experiment that does not fit the network or the device.
    """
    task = tasks.load(experiment.task.name, experiment.task.options) if task is None else task
    task = sized(judged_by(task, experiment.evaluate.metric), experiment.evaluate, hashed=True)
    inputs = traced_inputs(task)
    layers = untied(trace(task.model, inputs[0], inputs, experiment.space.parameters), task.model, experiment.space.network, inputs)
    device = load_device(experiment.device.name)
    kinds = needed(experiment.export.formats, device.name, device.file.identity.ties)
    ties = default_ties(_full(layers, experiment.space, device), layers, experiment.space, kinds, task.model, inputs[0])
    space = build_space(layers, experiment.space, device, ties)
    space, dropped = held(space, layers, task.model, experiment.export.formats)
    table = build_table(device, layers, space.layer_choices)
    _check_objectives(experiment.device, table, metric_names(task.infos))
    covered = [name for name, choices in space.layer_choices.items() if any(not choice.weight.is_float for choice in choices)]
    part = coverage(task.model, layers, covered)
    limits = _limits(experiment.device, device, table, layers, part)
    _check_limits(limits, table, space, part)
    sizes = (experiment.evaluate.calib, experiment.evaluate.valid, experiment.evaluate.test)
    asked = sum(sizes) if all(sizes) else 0
    report("reading data", 0, asked)
    prints = {
        "weights": hash_tensors(task.model.state_dict().values()),
        "data": hash_data(task, lambda count: report("reading data", count, asked)),
        "space": hash_space(space, limits, table),
    }
    return Setup(experiment, task, layers, space, device, table, limits, prints, part, ties, dropped)


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
    space = _full(layers, section, device)
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
    return rules.transform(space, section.network)


def _full(layers: Sequence[Layer], section: SpaceSection, device: Device) -> Space:
    """Return the space before the rules."""
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


def build_problem(setup: Setup, *, float_error: float | None = None) -> Problem:
    """Return the allocation problem that searchers see: cardinalities, objectives, limits and exact cost tables per site.

    What is measured stands first and is called "error" there, also where the experiment minimizes the loss.
    """
    space, table = setup.space, setup.table
    site_cost: dict[str, list[FloatArray]] = {metric: [] for metric in table.metrics}
    names = list(space.base)
    free: set[str] = set()
    for site in space.sites:
        touched = {layer for d in site if d < len(space.dimensions) for layer in space.dimensions[d].layers}
        free |= touched
        shape = tuple(space.cardinalities[d] for d in site)
        index = space.layer_index(_grid(space, site, shape))
        for metric in table.metrics:
            columns = [np.zeros(len(index)), *(table.values[metric][n, index[:, n]] for n, name in enumerate(names) if name in touched)]
            joint = np.max(columns, axis=0) if metric in table.peak else np.sum(columns, axis=0)
            site_cost[metric].append(joint.reshape(shape))
    fixed = [n for n, name in enumerate(names) if name not in free]
    base = {m: float((np.max if m in table.peak else np.sum)([0.0, *(table.values[m][n, 0] for n in fixed)])) for m in table.metrics}
    seen, names_seen = features(setup.layers, space.dimensions, len(space.cardinalities) - len(space.dimensions))
    return Problem(
        cardinalities=space.cardinalities,
        objectives=("error", *setup.experiment.device.objectives[1:]),
        sites=space.sites,
        site_cost={metric: tuple(tables) for metric, tables in site_cost.items()},
        limits=setup.limits,
        base_cost=base,
        peak=frozenset(table.peak),
        baselines=rules.uniform(space),
        features=seen,
        feature_names=names_seen,
        float_error=float_error,
    )


def _grid(space: Space, site: tuple[int, ...], shape: tuple[int, ...]) -> IntArray:
    """Return every joint choice of one site as points [prod(shape), D], zero in the other dimensions."""
    points = np.zeros((int(np.prod(shape)), len(space.cardinalities)), dtype=np.int64)
    points[:, list(site)] = np.stack([axis.ravel() for axis in np.indices(shape)], axis=1)
    return points


def _check_objectives(section: DeviceSection, table: CostTable, metrics: Sequence[str]) -> None:
    known = ["error", "loss", *table.metrics]
    for name in (*section.objectives, *section.budget):
        if name == MODEL_BYTES and name in section.budget:
            continue
        if name not in known and (name not in metrics or name in section.objectives):
            raise unknown(f"objective or budget of device {section.name!r}", name, [*known, MODEL_BYTES, *metrics])
    for name, limit in section.budget.items():
        if name in (*table.metrics, MODEL_BYTES) and (limit.bound or limit.of == "points"):
            raise InputError(f"budget {name} with a lower limit or points given; costs have an upper limit: '0.25 of float', or a number.")


def _limits(section: DeviceSection, device: Device, table: CostTable, layers: tuple[Layer, ...], part: Coverage) -> dict[str, float]:
    """Return every limit in SI units: the device's own (SRAM, flash), and the experiment's budget where that is tighter."""
    costs = (*table.metrics, MODEL_BYTES)
    asked = {name: _limit(name, limit, device, layers, part) for name, limit in section.budget.items() if name in costs}
    if MODEL_BYTES in asked:
        asked["weight_bytes"] = min(asked.pop(MODEL_BYTES), asked.get("weight_bytes", math.inf))
    return {name: min(asked.get(name, math.inf), table.limits.get(name, math.inf)) for name in {**asked, **table.limits}}


def _limit(name: str, limit: Limit, device: Device, layers: tuple[Layer, ...], part: Coverage) -> float:
    """Return a limit in SI units; of `model_bytes`, what the parameters that are not in `weight_bytes` leave for that."""
    left = part.uncounted_bytes if name == MODEL_BYTES else 0.0
    if not limit.of:
        return limit.value - left
    policy, metric = rules.uniform_policy(layers, _REFERENCES[limit.of]), "weight_bytes" if name == MODEL_BYTES else name
    if limit.of == "float" and metric == "weight_bytes":
        return limit.value * (float_bytes(layers) + left) - left
    try:
        return limit.value * (cost_policy(device, layers, policy)[metric] + left) - left
    except InputError as error:
        raise InputError(f"budget {name} = '{limit.value} of {limit.of}': the device cannot run {limit.of}: {error}") from None


def _check_limits(limits: Mapping[str, float], table: CostTable, space: Space, part: Coverage) -> None:
    """Refuse a limit that no policy of the space can keep."""
    left = sum(part.left.values())
    floats = f" {left:.6g} bytes of parameters stay in float: {listed(part.left, 4)}." if left else ""
    for name, limit in limits.items():
        least = [float(np.min(table.values[name][n, : len(choices)])) for n, choices in enumerate(space.layer_choices.values())]
        best = max(least) if name in table.peak else sum(least)
        if best > limit:
            raise InputError(
                f"no policy can meet the budget {name} <= {limit:.6g}: the smallest in this space is {best:.6g}. "
                f"Raise the budget to that or more, or allow cheaper formats.{floats if name == 'weight_bytes' else ''}"
            )


def population(experiment: Experiment) -> PopulationConfig | None:
    """Return how policies are trained by a population; None where they are not.

    Raises:
        InputError: an option of the scheduler that is not legal.
    """
    run = experiment.run
    return PopulationConfig(**run.scheduler_options) if run.scheduler == POPULATION else None
