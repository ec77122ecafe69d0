"""Everything that an experiment needs before its first trial: setup, evaluator, sensitivities."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from quant_core.reconstruct.results import starting_policy
from quant_core.spec.policy import Policy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.devices import CPU, device_named, shown
from quant_core.util.errors import InputError
from quant_core.util.parts import copy_refused
from search.config.experiment import Experiment
from search.config.files import loads
from search.evaluation.evaluator import Evaluator
from search.evaluation.sensitivity import Sensitivity
from search.evaluation.transform_choice import with_network
from search.problem.problem import FloatArray, Problem
from search.records.record import SweepRecord
from search.sweeps.basis import Basis, keep
from search.sweeps.fingerprints import same_data, sensitivity_key, task_probe, training_key
from search.sweeps.phases import Report, silent
from search.sweeps.plan import build_problem
from search.sweeps.promotion import adarounded
from search.sweeps.setup import Setup, population, prepare
from search.sweeps.trust import require_trust
from search.tasks.task import Task
from spaces.space import Space


@dataclass(frozen=True, eq=False)
class SweepContext:
    """A setup with its evaluator and sensitivities."""

    setup: Setup
    evaluator: Evaluator
    sensitivity: Sensitivity

    def problem(self, baseline: Mapping[str, float]) -> Problem:
        """Return the problem that the searcher is given; `baseline` holds the float network's `error_valid`."""
        problem = build_problem(self.setup.plan, float_error=baseline["error_valid"])
        measured = with_network(self.sensitivity, self.evaluator.engines, self.setup.space)
        return replace(problem, sensitivity=partial(_kept, self.setup, measured))


def _kept(setup: Setup, measured: Callable[[], tuple[FloatArray, ...]]) -> tuple[FloatArray, ...]:
    """Return the sensitivities; what a later `solve` needs of them and of the network is kept.

    Not where an export format left out choices: which ones, the network's modules say.
    """
    rises = measured()
    if not setup.dropped:
        basis = Basis(setup.layers, setup.ties, rises, setup.coverage.uncounted_bytes, setup.heads)
        keep(basis, setup.experiment, setup.fingerprints)
    return rises


def open_context(experiment: Experiment, task: Task | None = None, report: Report = silent) -> SweepContext:
    """Prepare everything that an experiment needs before its first trial.

    Args:
        experiment: what is to be done.
        task: stands in for the one that the experiment names.
        report: is told the phases: loading, calibrating, and later the sensitivities.
    """
    report(f"loading task {experiment.task.name}", 0, 0)
    if experiment.run.threads:
        torch.set_num_threads(experiment.run.threads)
    setup = prepare(experiment, task, report)
    device = device_named(experiment.run.device, setup.task.model)
    report(f"calibrating {len(setup.layers)} layers{'' if device == CPU else f' on {shown(device)}'}", 0, 0)
    section, trained_by = experiment.evaluate, population(experiment)
    probe = task_probe(setup.task)
    key = _there(training_key(setup.task, setup.fingerprints, section, trained_by, probe), device)
    specs = weight_specs(setup.space, section.ladder)
    names, dtype = experiment.space.network, experiment.run.dtype
    try:
        evaluator = Evaluator(setup.task, setup.layers, section, key, trained_by, specs, transforms=names, device=device, dtype=dtype)
    except TypeError as error:
        raise _named(error, setup.task) from error
    layerwise = setup.space.layerwise
    key = _there(sensitivity_key(setup.fingerprints, section, layerwise, probe), device)
    axis, passes = setup.task.logits_axis, section.sensitivity_passes
    sensitivity = Sensitivity(evaluator.engine, layerwise, evaluator.calib, key, section.sensitivity, axis, passes)
    sensitivity.report = lambda done, total: report("sensitivities", done, total)
    return SweepContext(setup, evaluator, sensitivity)


def _named(error: TypeError, task: Task) -> Exception:
    """Return an error of copying the network with the attribute that cannot be copied; another error as it is."""
    if "pickle" not in str(error):
        return error
    return copy_refused(task.model, "model", error)


def weight_specs(space: Space, ladder: Sequence[str]) -> dict[str, set[QuantSpec]]:
    """Return layer name -> the specs that its weight can have in a sweep, promotion to the rungs of `ladder` included."""
    specs: dict[str, set[QuantSpec]] = {}
    for name, choices in space.layer_choices.items():
        specs[name] = {choice.weight for choice in choices}
        if "adaround" in ladder:
            rounded = [adarounded(Policy({name: choice})) for choice in choices]
            specs[name] |= {policy[name].weight for policy in rounded if policy is not None}
        if "reconstruct" in ladder:
            specs[name] |= {starting_policy(Policy({name: choice}))[name].weight for choice in choices}
    return specs


def _there(key: str, device: torch.device) -> str:
    """Return the key of what is cached for one kind of device: another one rounds sums otherwise."""
    return key if device == CPU or not key else f"{key}-{device.type}"


def reopened(recorded: SweepRecord, context: SweepContext | None, report: Report, *, trust: bool) -> SweepContext:
    """Return the context of a recorded sweep, checked to be of the same weights, data and space.

    Args:
        recorded: the sweep, or its header.
        context: what was made of its experiment already; None makes it.
        report: is told the phases.
        trust: code that the record names may run, although the sweep was not started here.

    Raises:
        InputError: it is not trusted, or weights, data or space are not those of the sweep.
    """
    require_trust(recorded, trust, task_given=context is not None)
    context = context or open_context(loads(recorded.experiment, f"experiment of sweep {recorded.name}"), report=report)
    check_fingerprints(recorded, context.setup)
    return context


def check_fingerprints(recorded: SweepRecord, setup: Setup, names: Sequence[str] = ("weights", "data", "space")) -> None:
    """Refuse weights, data or a space other than what the sweep is bound to."""
    changed = [name for name in names if not _same(name, recorded.fingerprints[name], setup)]
    if changed:
        hashes = ", ".join(f"{name}: recorded {recorded.fingerprints[name]}, now {setup.fingerprints[name]}" for name in changed)
        raise InputError(
            f"sweep {recorded.name!r} is bound to other {' and '.join(changed)} than what the experiment now gives ({hashes}). "
            f"A task must give the same every time (seed its training); restore what changed, or start a new sweep."
        )


def _same(name: str, recorded: str, setup: Setup) -> bool:
    present = setup.fingerprints[name]
    return same_data(recorded, setup.task, present) if name == "data" else recorded == present
