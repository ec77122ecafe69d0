"""Proposals from the second-order model: hypervolume gains as the acquisition of a front."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.searchers_problems import cases, digits_front
from search.problem.pareto import hypervolume
from search.problem.problem import Trial, Values
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.surrogate import model
from search.searchers.surrogate.model import compressed, hypervolume_gains

P4 = cases(("P4",))


def test_the_gain_of_a_point_is_the_hypervolume_that_it_adds() -> None:
    problem, measure, _ = digits_front()
    problem = replace(problem, limits={"size": 0.7 * problem.max_cost("size")})
    history = ProposalHistory(problem, 0, Repairer(problem, "none"))
    rng = np.random.default_rng(0)
    for values in [*problem.baselines, *(history.draw() for _ in range(20))]:
        history.note(Trial(-1, values), (measure(values), 0.0))
    told = np.array(list(history.told))
    errors = compressed(np.array([objectives[0] for objectives in history.told.values()]))
    front = np.stack([errors, problem.costs(told)["size"]], axis=1)[(problem.excess(told) <= 0).all(axis=1)]
    reference = (float(errors.max()), problem.limits["size"])
    points, bound = rng.integers(4, size=(30, 7)), rng.uniform(0, 1, 30)
    costs = problem.costs(points)["size"]
    wanted = [hypervolume(np.vstack([front, point]), reference) - hypervolume(front, reference) for point in zip(bound, costs, strict=True)]
    assert hypervolume_gains(history, "size", points, bound) == pytest.approx(wanted, rel=1e-9, abs=1e-6)
    assert np.ptp(wanted) > 0


@pytest.mark.parametrize("front", [False, True])
def test_the_model_proposes_what_would_widen_a_front_most(monkeypatch: pytest.MonkeyPatch, front: bool) -> None:
    problem, measure = digits_front()[:2] if front else (P4[0].problem, P4[0].measure)
    history = ProposalHistory(problem, 0, Repairer(problem, "random"))
    for values in [*problem.baselines, *(history.draw() for _ in range(30))]:
        history.note(Trial(-1, values), (measure(values), float(problem.costs(np.array([values]))["size"][0]))[: len(problem.objectives)])
    asked: list[Values] = []

    def only_the_last(_history: ProposalHistory, metric: str, points: np.ndarray, _bound: np.ndarray) -> np.ndarray:
        assert metric == "size"
        asked.append(tuple(map(int, points[-1])))
        return (np.arange(len(points)) == len(points) - 1).astype(np.float64)

    monkeypatch.setattr(model, "hypervolume_gains", only_the_last)
    trial = model.propose_by_model(history, losses(problem))
    assert trial is not None
    assert asked == ([trial.values] if front else [])
