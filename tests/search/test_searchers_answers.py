"""Single searchers: optima, fronts, better than random; the scale of the agent's reward."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.searchers_problems import cases, digits_front, front_reference
from benchmarks.searchers_run import front_run, run
from quant_core.util.errors import InputError
from search.problem.pareto import hypervolume
from search.problem.problem import Problem, Trial, Values
from search.problem.repair import Repairer
from search.searchers import build
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, van_der_corput
from search.searchers.haq.searcher import action_of, choice_of, truncated_normal
from search.searchers.surrogate import model
from search.searchers.surrogate.model import compressed, hypervolume_gains
from search.searchers.surrogate.quadratic import fit
from search.searchers.surrogate.warm_start import warm_points

ROOT = Path(__file__).parent.parent.parent
P1 = cases(("P1",))
P4 = cases(("P4",))


@pytest.mark.parametrize("case", P1, ids=lambda case: case.name)
def test_auto_solves_p1_within_25_evaluations(case: object) -> None:
    assert isinstance(case, type(P1[0]))
    trace = run(case.problem, case.measure, "auto", seed=0, evaluations=5)
    assert trace.error == pytest.approx(case.best, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", P4, ids=lambda case: case.name)
def test_auto_finds_the_exact_optimum_of_the_measured_table(case: object) -> None:
    assert isinstance(case, type(P4[0]))
    assert run(case.problem, case.measure, "auto", seed=0, evaluations=200).error == case.best


@pytest.mark.parametrize("seed", range(2))
def test_auto_widens_the_front_from_its_first_evaluations_on(seed: int) -> None:
    problem, measure, best = digits_front()
    volumes = front_run(problem, measure, "auto", seed=seed, evaluations=100, options={}, at=(50, 100))
    assert volumes[50] > 0.97 * best
    assert volumes[100] > 0.98 * best


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


def test_topk_and_pairwise_get_past_the_best_sum_of_sensitivities() -> None:
    case = P4[1]
    first = run(case.problem, case.measure, "ilp", seed=0, evaluations=1).error
    assert run(case.problem, case.measure, "ilp_topk", seed=0, evaluations=20).error < first
    assert run(case.problem, case.measure, "pairwise", seed=0, evaluations=60).error < first


def test_warm_tpe_is_ahead_of_cold_tpe_on_an_additive_problem() -> None:
    case = P1[4]
    warm = run(case.problem, case.measure, "tpe", seed=0, evaluations=20)
    cold = run(case.problem, case.measure, "tpe", seed=0, evaluations=20, options={"warm": 0})
    assert warm.error == pytest.approx(case.best, abs=1e-12)
    assert cold.error > warm.error


@pytest.mark.parametrize(("name", "under_one_budget"), [("tpe", 4), ("auto", 12)])
@pytest.mark.parametrize("front", [False, True])
def test_few_points_of_the_sensitivities_are_shown_first(name: str, under_one_budget: int, front: bool) -> None:
    problem, shown = (digits_front()[0], 12) if front else (P4[3].problem, under_one_budget)

    def first(count: int) -> list[Values]:
        history = ProposalHistory(problem, 0, Repairer(problem, "none"))
        return [history.open(values).values for values in warm_points(history, count)]

    agent = build(name, problem, trials=300)
    asked = [trial.values for trial in (agent.ask() for _ in range(shown + 4)) if trial is not None]
    assert asked[:shown] == first(shown)
    assert not set(asked) >= set(first(shown + 4))


@pytest.mark.parametrize("case", cases(("P4", "P5")), ids=lambda case: f"{case.family} {case.name}")
def test_uniform_finds_the_best_uniform_point_where_none_is_told(case: object) -> None:
    assert run(case.problem, case.measure, "uniform", seed=0, evaluations=100, baselines=False).error == case.uniform


@pytest.mark.parametrize("name", ["ilp", "greedy"])
def test_an_epsilon_sweep_traces_the_front(name: str) -> None:
    problem, measure, best = digits_front()
    agent = build(name, problem, trials=30)
    points = []
    while (trial := agent.ask()) is not None:
        cost = float(problem.costs(np.array([trial.values], dtype=np.int64))["size"][0])
        points.append((measure(trial.values), cost))
        agent.tell(trial, points[-1])
    assert 10 <= len(points) <= 30
    assert hypervolume(np.array(points), front_reference(problem)) > 0.9 * best


def test_epsilon_limits_go_from_coarse_to_fine_within_the_limits() -> None:
    assert van_der_corput(5).tolist() == [1.0, 0.5, 0.25, 0.75, 0.125]
    problem, _, _ = digits_front()
    low, high = 2 * 25280.0, 8 * 25280.0
    limits = [limits["size"] for limits in epsilon_limits(problem, 3)]
    assert limits == pytest.approx([high, (low + high) / 2, low + (high - low) / 4])


def test_the_second_order_model_recovers_a_function_of_pairs() -> None:
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(4, size=(300, 5)), axis=0)
    errors = 0.1 * points[:, 0] + 0.3 * (points[:, 1] == points[:, 2]) - 0.2 * points[:, 3]
    prior = tuple(np.zeros(4) for _ in range(5))
    model = fit(points[:200], errors[:200], prior)
    mean, deviation = model.predict(points[200:])
    assert float(np.corrcoef(mean, errors[200:])[0, 1]) > 0.98
    assert (deviation > 0).all()
    linear, pairs = model.terms()
    total = sum(linear[d][points[200:, d]] for d in range(5))
    total = total + sum(table[points[200:, d], points[200:, e]] for (d, e), table in pairs.items())
    assert float(np.ptp(total - mean)) < 1e-9  # the tables are the model's mean, up to a constant


def test_actions_share_the_unit_interval_evenly_and_round_trip() -> None:
    assert [choice_of(action, 4) for action in (0.0, 0.24, 0.25, 0.5, 0.99, 1.0)] == [0, 0, 1, 2, 3, 3]
    assert all(choice_of(action_of(k, 7), 7) == k for k in range(7))
    drawn = [truncated_normal(np.random.default_rng(seed), 0.9, 0.5) for seed in range(200)]
    assert 0.0 <= min(drawn) < 0.3
    assert 0.9 < max(drawn) <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_agents_reward_does_not_depend_on_the_scale_of_the_error(scale: float) -> None:
    """A first try with an unscaled reward collapsed into the worst corner; haq+ must propose the same whatever the unit of the error."""
    target = (3, 1, 2, 0, 3, 1)
    problem = Problem((4,) * 6, ("error",), tuple((d,) for d in range(6)), {"cost": tuple(np.arange(4.0) for _ in range(6))})

    def error(values: Values) -> float:
        return float(sum(abs(v - t) for v, t in zip(values, target, strict=True)))

    agent = build("haq+", problem, seed=0, trials=60)
    errors = []
    for _ in range(60):
        trial = agent.ask()
        assert trial is not None
        errors.append(error(trial.values))
        agent.tell(trial, (scale * errors[-1],))
    assert np.mean(errors[-15:]) < np.mean(errors[:15]) - 1.0
    assert min(errors) <= 1.0


def test_a_replayed_agent_proposes_the_same() -> None:
    """Resume: the recorded asks and tells bring a new agent to where the old one was, even after other work drew random numbers."""
    case = P4[0]

    def fresh() -> tuple[Trial, ...]:
        agent = build("haq+", case.problem, seed=3, trials=24)
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


def test_the_command_solves_one_problem() -> None:
    command = [sys.executable, "-m", "benchmarks.searchers", "--problem", "benchmarks/problems/hawqv3_resnet18.json"]
    rule = ["--searcher", "ilp", "--json", "--budget-metric", "bops_g", "--ratio", "0.5"]
    done = subprocess.run([*command, *rule], cwd=ROOT, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert list(answer) == ["loss", "choice", "cost", "seconds", "evaluations"]
    assert answer["loss"] == pytest.approx(0.211431448741)
    assert answer["cost"]["bops_g"] <= 66.23232
    assert answer["evaluations"] == 1
    assert answer["seconds"] < 1.0
    loose = [*command, "--searcher", "ilp", "--json", "--budget-metric", "size_mb", "--ratio", "1.0"]
    widest = json.loads(subprocess.run(loose, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert (widest["loss"], set(widest["choice"])) == (0.0, {1}), "a uniform optimum is found, too"
    bad = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "give --budget-metric (latency_ms, bops_g, size_mb) and --ratio" in bad.stderr
