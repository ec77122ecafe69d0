"""A sweep before its first trial: its searcher, and the sequence of its asks and tells."""

from search.config.experiment import Experiment
from search.problem.problem import Problem, Searcher
from search.records.front import keeps_quality
from search.records.record import SweepRecord
from search.searchers import build
from search.sweeps.memory import RunRecord
from search.sweeps.setup import Setup
from search.sweeps.sweep import Sweep


def searcher_of(experiment: Experiment, problem: Problem) -> Searcher:
    """Return the searcher of an experiment, as it is before its first proposal."""
    section = experiment.search
    return build(section.searcher, problem, section.seed, section.trials, section.options)


def sweep_of(setup: Setup, problem: Problem, searcher: Searcher, header: SweepRecord, tracker: RunRecord) -> Sweep:
    """Return a sweep before its first trial."""
    section, evaluate = setup.experiment.search, setup.experiment.evaluate
    return Sweep(
        setup.space,
        problem,
        searcher,
        section.searcher,
        section.trials,
        header.objectives,
        tuple(header.reference[name] for name in header.objectives),
        tracker,
        evaluate.fidelity,
        evaluate.ladder,
        evaluate.top_k,
        evaluate.start == "nearest",
        keeps=lambda figures: keeps_quality(figures, header),
    )
