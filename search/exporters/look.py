"""A look at a task before its compression is planned: the same setup on a few examples, timed."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from quant_core.network.forward import forward
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import BitfrontError
from search.config.experiment import Experiment
from search.evaluation.measure import take
from search.exporters.minutes import SURE, WANTED, Costs
from search.sweeps.context import SweepContext, open_context
from search.sweeps.phases import Report, silent
from search.tasks.batches import size_of
from search.tasks.task import Task
from spaces import rules
from spaces.space import Space

EXAMPLES = 16
LOW_BITS = 4
_LEAST_S = 1e-9


def look(
    experiment: Experiment, task: Task, seconds: float, report: Report = silent, clock: Callable[[], float] = time.perf_counter
) -> tuple[Costs, tuple[QuantSpec, ...]]:
    """Return the costs of a trial, with the examples that there are as far as the time could use them, and the widest weight formats.

    Args:
        experiment: of the compression, but for what the time decides.
        task: its network and data.
        seconds: that are left.
        report: is told the phase.
        clock: seconds that only grow.
    """
    report(f"looking at {EXAMPLES} examples", 0, 0)
    sizes = _counted(task, EXAMPLES)
    begun = clock()
    few = experiment.model_copy(update={"evaluate": experiment.evaluate.model_copy(update=sizes)})
    context = open_context(few, task)
    opened = clock()
    with contextlib.suppress(BitfrontError):  # so few examples may be too few for a metric
        context.evaluator.float_metrics("valid")  # the first pass of a network is slower than the others
    warm = clock()
    network = context.evaluator.engine.restore()
    with torch.inference_mode():
        for inputs, _ in context.setup.task.valid:
            forward(network, inputs)
    float_s = (clock() - warm) / sizes["valid"]
    first_s, trial_s = _trial(context, clock)
    costs = Costs(
        max(float_s, _LEAST_S),
        max(trial_s / sizes["valid"], float_s, _LEAST_S),
        max(0.0, first_s - trial_s),
        opened - begun,
        **_of_space(context.setup.space),
    )
    if math.isfinite(seconds):  # else all examples are used, however many there are
        costs = replace(costs, **_counted(task, max(SURE, int(seconds / WANTED / costs.trial_s))))
    return costs, _widest(context.setup.space)


def _widest(space: Space) -> tuple[QuantSpec, ...]:
    """Return the weight formats that are the widest integer one of some layer."""
    kept = []
    for choices in space.layer_choices.values():
        specs = [choice.weight for choice in choices]
        kept.append(max([spec for spec in specs if not spec.is_float] or specs, key=lambda spec: spec.bits))
    return tuple(dict.fromkeys(kept))


def _counted(task: Task, most: int) -> dict[str, Any]:
    """Return how many examples the splits have, up to `most`."""
    return {split: sum(size_of(*batch) for batch in take(getattr(task, split), most)) for split in ("calib", "valid", "test")}


def _trial(context: SweepContext, clock: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of the first trial of a uniform policy that can be measured, and those of the same one again."""
    space, first_s, trial_s = context.setup.space, 0.0, 0.0
    for values in rules.uniform(space):
        policy, begun = space.policy(values), clock()
        result = context.evaluator(policy)
        first_s = clock() - begun
        if result.ok:
            begun = clock()
            context.evaluator(policy)
            trial_s = clock() - begun
            break
    return first_s, trial_s


def _of_space(space: Space) -> dict[str, Any]:
    formats = {choice.weight for choices in space.layer_choices.values() for choice in choices if not choice.weight.is_float}
    return {
        "baselines": len(rules.uniform(space)),
        "size": space.size,
        "choices": sum(space.cardinalities) - len(space.cardinalities),
        "formats": len(formats),
        "layers": len(space.layer_choices),
        "few_bits": any(spec.bits <= LOW_BITS for spec in formats),
    }
