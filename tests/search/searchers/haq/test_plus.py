"""haq+: the scale of its reward, its replay after a stop, its algorithms."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.searchers_pairs import pairs_problem
from benchmarks.searchers_problems import cases
from benchmarks.searchers_run import run
from quant_core.util.errors import InputError
from search.problem.problem import Problem, Trial, Values
from search.searchers import build

P4 = cases(("P4",))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_agents_reward_does_not_depend_on_the_scale_of_the_error(scale: float) -> None:
    """A first try with an unscaled reward collapsed into the worst corner; haq+ must propose the same whatever the unit of the error."""
    target = (3, 1, 2, 0, 3, 1)
    problem = Problem((4,) * 6, ("error",), tuple((d,) for d in range(6)), {"cost": tuple(np.arange(4.0) for _ in range(6))})

    def error(values: Values) -> float:
        return float(sum(abs(v - t) for v, t in zip(values, target, strict=True)))

    agent = build("haq+", problem, seed=0, trials=60, options={"imitate": 5})
    errors = []
    for _ in range(60):
        trial = agent.ask()
        assert trial is not None
        errors.append(error(trial.values))
        agent.tell(trial, (scale * errors[-1],))
    assert np.mean(errors[-15:]) < np.mean(errors[:15]) - 1.0
    assert min(errors) <= 1.0


def test_a_cold_agent_without_the_model_learns_what_random_search_and_tpe_do_not() -> None:
    """No sensitivities, no warm start, no second-order model: what is left is the agent, and it imitates the best policies told."""
    problem, measure, _ = pairs_problem(32, 16)
    problem = replace(problem, sensitivity=None)
    alone = {"warm": 0, "strength": 0.0, "surrogate": False}
    entered = {
        "random": ("random", {}),
        "tpe": ("tpe", {"warm": 0}),
        "haq+": ("haq+", alone),
        "no imitation": ("haq+", {**alone, "imitate": 0}),
    }
    errors = {
        name: run(problem, measure, searcher, seed=0, evaluations=60, options=options).error
        for name, (searcher, options) in entered.items()
    }
    assert errors["haq+"] < min(errors["random"], errors["tpe"])
    assert errors["haq+"] < 0.9 * errors["no imitation"]


def test_a_replayed_agent_proposes_the_same() -> None:
    """Resume: the recorded asks and tells bring a new agent to where the old one was, even after other work drew random numbers."""
    case = P4[0]

    def fresh() -> tuple[Trial, ...]:
        agent = build("haq+", case.problem, seed=3, trials=24, options={"imitate": 5})
        trials = []
        for _ in range(14):
            trial = agent.ask()
            assert trial is not None
            trials.append(trial)
            agent.tell(trial, (case.measure(trial.values),))
        return tuple(trials)

    first = fresh()
    np.random.random(5)
    assert fresh() == first


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(InputError, match="unknown algorithm of haq\\+ 'dqn'; known: ddpg, ppo, sac, td3"):
        build("haq+", P4[0].problem, options={"algorithm": "dqn"})


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ddpg", "td3", "sac"])
def test_the_other_algorithms_of_haq_plus_work(algorithm: str) -> None:
    case = P4[1]
    trace = run(case.problem, case.measure, "haq+", seed=0, evaluations=15, options={"algorithm": algorithm})
    assert len(trace.best) == 15
    assert trace.error < case.uniform
