"""From an experiment to everything that a sweep needs: task, layers, space, device, cost table, limits, fingerprints."""

from collections.abc import Mapping
from dataclasses import dataclass

from hw_models.device import Device
from hw_models.loading import load_device
from hw_models.table import CostTable
from quant_core.network.attention import cached_heads
from quant_core.network.coverage import Coverage, coverage
from quant_core.network.trace import trace
from quant_core.qat.population import PopulationConfig
from quant_core.spec.kv_cache import Heads
from quant_core.spec.layer import Layer
from quant_core.transforms.apply import untied
from search import tasks
from search.config.experiment import Experiment
from search.config.schedulers import POPULATION
from search.evaluation.measure import traced_inputs
from search.sweeps.fingerprints import hash_data, hash_space, hash_tensors
from search.sweeps.held import Dropped, held
from search.sweeps.phases import Report, silent
from search.sweeps.plan import Plan, build_space, check_limits, full_space, planned
from search.sweeps.quality import judged_by, metric_names
from search.sweeps.ties import Tie, default_ties, needed
from search.tasks.stream import sized
from search.tasks.task import Task
from spaces.space import Space


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything about a sweep that follows from its experiment alone.

    Attributes:
        limits: as in `search.sweeps.plan.Plan`.
        fingerprints: hashes of weights, data and space; a resumed sweep must have the same.
        coverage: how much of the network's parameters the space covers, and what stays in float.
        ties: the choices that agree because the device or an export format needs it.
        dropped: the choices that an export format does not hold.
        heads: of the KV cache; empty where no policy quantizes it.
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
    heads: Heads = ()

    @property
    def plan(self) -> Plan:
        """The part that the network itself is not needed for."""
        return Plan(self.experiment, self.layers, self.space, self.device, self.table, self.limits, self.heads)


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
    ties = default_ties(full_space(layers, experiment.space, device), layers, experiment.space, kinds, task.model, inputs[0])
    space = build_space(layers, experiment.space, device, ties)
    space, dropped = held(space, layers, task.model, experiment.export.formats)
    covered = [name for name, choices in space.layer_choices.items() if any(not choice.weight.is_float for choice in choices)]
    part = coverage(task.model, layers, covered)
    heads = cached_heads(task.model, inputs[0], experiment.space.kv)
    plan = planned(experiment, layers, space, device, metric_names(task.infos), part.uncounted_bytes, heads)
    check_limits(plan, part.left)
    sizes = (experiment.evaluate.calib, experiment.evaluate.valid, experiment.evaluate.test)
    asked = sum(sizes) if all(sizes) else 0
    report("reading data", 0, asked)
    prints = {
        "weights": hash_tensors(task.model.state_dict().values()),
        "data": hash_data(task, lambda count: report("reading data", count, asked)),
        "space": hash_space(space, plan.limits, plan.table),
    }
    return Setup(experiment, task, layers, space, device, plan.table, plan.limits, prints, part, ties, dropped, heads)


def population(experiment: Experiment) -> PopulationConfig | None:
    """Return how policies are trained by a population; None where they are not.

    Raises:
        InputError: an option of the scheduler that is not legal.
    """
    run = experiment.run
    return PopulationConfig(**run.scheduler_options) if run.scheduler == POPULATION else None
