"""What the record of a sweep says before its first trial: name, bindings, objectives, limits, and the parameters of its run."""

from collections.abc import Mapping
from datetime import datetime

from search.config.experiment import Experiment
from search.config.files import dumps
from search.problem.problem import Problem
from search.records.record import SweepRecord
from search.sweeps.quality import quality_limits, reference_point
from search.sweeps.setup import Setup


def header_of(setup: Setup, problem: Problem, baseline: Mapping[str, float]) -> SweepRecord:
    """Return the record of a sweep before its first trial.

    The reference point of the hypervolume is 1 for the error (of a metric without a worst value four times the float network's), four
    times the float network's for the loss (at least 1), and 1.05 times the most expensive policy of the space for every cost.
    """
    experiment = setup.experiment
    stamp = datetime.now().strftime("%m%d-%H%M%S")
    name = experiment.name or f"{experiment.task.name.rpartition(':')[2]}-{experiment.search.searcher.rpartition(':')[2]}-{stamp}"
    quality = reference_point(next(iter(setup.task.infos), None), baseline)
    reference = {metric: quality.get(metric) or 1.05 * problem.max_cost(metric) for metric in experiment.device.objectives}
    return SweepRecord(
        name,
        "",
        dumps(experiment),
        dict(setup.fingerprints),
        experiment.device.objectives,
        dict(problem.limits),
        reference,
        dict(baseline),
        "running",
        metrics=setup.task.infos,
        quality_limits=quality_limits(experiment.device, setup.task.infos, baseline),
    )


def params_of(experiment: Experiment) -> dict[str, object]:
    """Return what the parent run shows: the names that sweeps are compared by, then the whole resolved experiment as `section.key`."""
    search = experiment.search
    tables = {name: table for name, table in experiment.model_dump(mode="json", exclude_none=True).items() if isinstance(table, dict)}
    resolved = {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
    return resolved | {
        "task": experiment.task.name,
        "device": experiment.device.name,
        "searcher": search.searcher,
        "trials": search.trials,
        "seed": search.seed,
        "fidelity": experiment.evaluate.fidelity,
        "ladder": " ".join(experiment.evaluate.ladder),
        "backend": experiment.run.backend,
    }
