"""The ladder: which points are promoted, in what order, and that it is resumed like everything else."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from quant_core import Layer, Policy, parse
from quant_core.spec.policy import LayerPolicy
from search.problem.problem import Problem, Trial
from search.records.record import TrialRecord
from search.records.result import Result
from search.searchers import build
from search.sweeps.promotion import MAX_TRAININGS_BEFORE, Promotion, nearest_trained, select_promotions
from search.sweeps.sweep import Evaluation, Sweep
from spaces import rules

LAYERS = [Layer(f"l{n}", "linear", 4, 4, (4, 4), (1,), (1,), 16) for n in range(3)]
SPACE = rules.full(LAYERS, {"weight": [parse(f"int{bits}:channel") for bits in (2, 4, 8)], "activation": [parse("int8:tensor")]})
OBJECTIVES, REFERENCE = ("error", "weight_bytes"), (1.0, 26.0)


@dataclass
class Notes:
    trials: list[TrialRecord] = field(default_factory=list)

    def record(self, trial: TrialRecord) -> None:
        self.trials.append(trial)

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        assert knee in numbers


def problem() -> Problem:
    cost = tuple(np.array([2.0, 4.0, 8.0]) for _ in LAYERS)
    return Problem(SPACE.cardinalities, OBJECTIVES, SPACE.sites, {"weight_bytes": cost}, baselines=rules.uniform(SPACE))


def plain(trials: Sequence[TrialRecord]) -> list[tuple[object, ...]]:
    return sorted((t.number, t.origin, t.values, t.policy.id, t.result.fidelity, t.result.status, t.repeated) for t in trials)


def trial(number: int, values: tuple[int, ...], error: float, cost: float, fidelity: str = "ptq") -> TrialRecord:
    policy = SPACE.policy(values)
    return TrialRecord(
        number, "random", values, policy, Result(policy.id, {"error": error}, {"weight_bytes": cost}, fidelity=fidelity), 0, 0
    )


def picked(trials: list[TrialRecord], top_k: int, rung: str = "qat") -> list[tuple[int, ...]]:
    return [promotion.values for promotion in select_promotions(trials, OBJECTIVES, REFERENCE, rung, top_k)]


CLOUD = [
    trial(0, (0, 0, 0), 0.50, 6.0),
    trial(1, (1, 1, 1), 0.10, 12.0),  # the front: 0, 1, 2, of which 1 covers most
    trial(2, (2, 2, 2), 0.05, 24.0),
    trial(3, (0, 0, 1), 0.55, 8.0),  # 0.05 above the front
    trial(4, (1, 1, 2), 0.40, 16.0),  # 0.30
    trial(5, (1, 2, 2), 0.12, 20.0),  # 0.02
]


def test_the_nearest_to_the_front_climb_first() -> None:
    order = picked(CLOUD, 6)
    assert order[0] == (1, 1, 1), "its removal costs most hypervolume"
    assert set(order[:3]) == {(0, 0, 0), (1, 1, 1), (2, 2, 2)}
    assert order[3:] == [(1, 2, 2), (0, 0, 1), (1, 1, 2)]
    assert picked(CLOUD, 2) == order[:2]
    assert picked(list(reversed(CLOUD)), 6) == order
    assert picked([], 3) == []


def test_a_point_stands_with_its_best_figures_and_its_first_policy() -> None:
    refined = replace(trial(6, (0, 0, 1), 0.2, 8.0, "adaround"), policy=SPACE.policy((2, 2, 2)))
    found = select_promotions([*CLOUD, refined], OBJECTIVES, REFERENCE, "qat", 6)
    assert found[-1].values == (1, 1, 2)
    assert Promotion((0, 0, 1), SPACE.policy((0, 0, 1)), "qat") in found[:4]


def test_adaround_climbs_where_it_changes_something() -> None:
    (climb,) = select_promotions(CLOUD[:1], OBJECTIVES, REFERENCE, "adaround", 5)
    assert {each.weight for each in climb.policy.values()} == {replace(parse("int2:channel"), rounding="adaround")}
    assert [each.activation for each in climb.policy.values()] == [parse("int8:tensor")] * 3
    floats = Policy({layer.name: LayerPolicy(parse("float"), parse("int8:tensor")) for layer in LAYERS})
    mx = Policy({layer.name: LayerPolicy(parse("mx6"), parse("mx6")) for layer in LAYERS})
    assert select_promotions([replace(CLOUD[0], policy=mx)], OBJECTIVES, REFERENCE, "adaround", 5) == ()
    assert select_promotions([replace(CLOUD[0], policy=floats)], OBJECTIVES, REFERENCE, "qat", 5) == ()


def make(notes: Notes, searcher: str = "random", trials: int = 12) -> Sweep:
    p = problem()
    return Sweep(
        SPACE, p, build(searcher, p, 0, trials), searcher, trials, p.objectives, REFERENCE, notes, "ptq", ("adaround", "qat"), top_k=4
    )


def evaluate(evaluation: Evaluation) -> Result:
    gain = {"ptq": 1.0, "adaround": 0.8, "qat": 0.5}[evaluation.fidelity]
    error = gain * sum(2.0**-each.weight.bits for each in evaluation.policy.values()) / 3
    if evaluation.policy["l0"].weight.bits == 8:
        return Result(evaluation.policy.id, status="failed", reason="no such kernel", fidelity=evaluation.fidelity)
    return Result(evaluation.policy.id, {"error": error, "accuracy": 1 - error}, {}, fidelity=evaluation.fidelity)


def drive(sweep: Sweep, workers: int = 1, stop_after: int = 10**9) -> None:
    open_trials: list[Evaluation] = []
    while sweep.told < stop_after:
        while len(open_trials) < workers and (evaluation := sweep.next()):
            open_trials.append(evaluation)
        if not open_trials:
            return
        done = open_trials.pop()
        sweep.finish(done.number, evaluate(done))


@pytest.mark.parametrize(("searcher", "trials"), [("random", 12), ("random", 500), ("uniform", 12)])
def test_every_rung_is_recorded_and_joins_the_front(searcher: str, trials: int) -> None:
    notes = Notes()
    sweep = make(notes, searcher, trials)
    assert not sweep.done
    drive(sweep, workers=3)
    assert sweep.done
    assert sweep.next() is None
    counts = [[t.result.fidelity for t in notes.trials if t.repeated < 0].count(each) for each in ("ptq", "adaround", "qat")]
    searched = {("random", 12): 12 - sweep.repeated, ("random", 500): 27, ("uniform", 12): 3}[searcher, trials]
    assert counts == [searched, *([2, 2] if searcher == "uniform" else [4, 4])], "of three uniform policies one fails"
    assert sweep.told == sweep.planned == sum(counts) + sweep.repeated
    assert sorted(t.number for t in notes.trials) == list(range(sweep.told))
    assert {t.origin for t in notes.trials if t.result.fidelity != "ptq"} == {"ladder"}
    assert any(sweep.records[number].result.fidelity == "qat" for number in sweep.archive.numbers)
    last_ptq = max(t.tell_index for t in notes.trials if t.result.fidelity == "ptq")
    assert min(t.ask_index for t in notes.trials if t.result.fidelity == "adaround") > last_ptq, "a rung begins when the last one is over"


def test_points_over_the_budget_do_not_climb() -> None:
    notes = Notes()
    sweep = make(notes, "uniform", 3)
    sweep.problem = replace(sweep.problem, limits={"weight_bytes": 10.0})
    drive(sweep)
    searched = {t.values: sweep.problem.feasible(t.values) for t in notes.trials if t.origin != "ladder" and t.result.ok}
    assert searched == {(0, 0, 0): True, (1, 1, 1): False}
    climbed = [(t.values, t.result.fidelity) for t in notes.trials if t.origin == "ladder"]
    assert climbed == [((0, 0, 0), "adaround"), ((0, 0, 0), "qat")]


@pytest.mark.parametrize("trials", [12, 500])
@pytest.mark.parametrize("killed_from_the_end", [0, 1, 4, 5, 8, 9])
def test_replay_goes_on_within_the_ladder(trials: int, killed_from_the_end: int) -> None:
    whole = Notes()
    drive(make(whole, trials=trials))
    part = Notes()
    drive(make(part, trials=trials), stop_after=len(whole.trials) - killed_from_the_end)
    resumed = make(part, trials=trials)
    resumed.replay(tuple(part.trials))
    drive(resumed)
    assert resumed.done
    assert plain(part.trials) == plain(whole.trials)


def test_the_searcher_hears_nothing_of_the_ladder() -> None:
    notes = Notes()
    sweep = make(notes)
    told: list[Trial] = []
    tell = sweep.searcher.tell
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.searcher, "tell", lambda trial, objectives: (told.append(trial), tell(trial, objectives)))
        drive(sweep)
    assert len(told) == 12
    assert len(notes.trials) == 20


def stopped_early(evaluation: Evaluation) -> Result:
    result = evaluate(evaluation)
    if evaluation.number % 3 or not result.ok:
        return result
    return replace(result, metrics={"error": 0.0, "accuracy": 1.0}, status="stopped", reason="early", fidelity="ptq, 9 examples")


def test_a_stopped_trial_is_neither_failed_nor_on_the_front_nor_told_nor_tried_again() -> None:
    notes = Notes()
    sweep = make(notes)
    told: list[Sequence[float] | None] = []
    tell = sweep.searcher.tell
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.searcher, "tell", lambda trial, objectives: (told.append(objectives), tell(trial, objectives)))
        while (evaluation := sweep.next()) is not None:
            sweep.finish(evaluation.number, stopped_early(evaluation))
    stopped = {t.number for t in notes.trials if t.result.status == "stopped"}
    failed = {t.number for t in notes.trials if t.result.status == "failed"}
    assert sweep.stopped == len(stopped) > 2
    assert sweep.failed == len(failed)
    assert not stopped & set(sweep.archive.numbers)
    assert [number for number, each in enumerate(told) if each is None] == sorted(n for n in stopped | failed if n < 12)
    again = make(part := Notes())
    again.replay([t for t in notes.trials if t.tell_index < 14])
    part.trials += [t for t in notes.trials if t.tell_index < 14]
    while (evaluation := again.next()) is not None:
        again.finish(evaluation.number, stopped_early(evaluation))
    assert plain(part.trials) == plain(notes.trials)
    assert again.archive.numbers == sweep.archive.numbers


def test_training_starts_from_the_nearest_trained_trial() -> None:
    trained = [
        replace(trial(3, (0, 0, 0), 0.5, 6.0, "qat")),
        replace(trial(4, (2, 2, 0), 0.3, 16.0, "qat"), after=(3,)),
        replace(trial(5, (0, 2, 2), 0.3, 16.0, "qat"), after=(3, 4)),
    ]
    assert nearest_trained([], (0, 0, 0)) == nearest_trained(CLOUD, (0, 0, 0)) == (), "nothing is trained"
    assert nearest_trained([*CLOUD, *trained], (0, 0, 1)) == (3,)
    assert nearest_trained(trained, (2, 1, 0)) == (3, 4)
    assert nearest_trained(trained, (1, 1, 0)) == (3,), "equally near ones: the first"
    assert nearest_trained(trained, (1, 2, 2)) == (3, 4), "one that has gone through MAX_TRAININGS_BEFORE trainings does not count"
    assert len(trained[2].after) == MAX_TRAININGS_BEFORE
    assert (
        nearest_trained(
            [replace(trained[0], repeated=1), replace(trained[1], result=replace(trained[1].result, status="stopped"))], (0, 0, 0)
        )
        == ()
    )


def test_jobs_of_a_warm_sweep_name_what_is_trained_before_them_also_after_a_replay() -> None:
    def warm(notes: Notes) -> Sweep:
        sweep = make(notes)
        sweep.warm = True
        return sweep

    def drive_and_watch(sweep: Sweep, stop_after: int = 10**9) -> dict[int, tuple[Policy, ...]]:
        after = {}
        while sweep.told < stop_after and (evaluation := sweep.next()) is not None:
            after[evaluation.number] = evaluation.after_policies
            sweep.finish(evaluation.number, evaluate(evaluation))
        return after

    whole = Notes()
    after = drive_and_watch(sweep := warm(whole))
    assert [bool(after[number]) for number in range(16, 20)] == [False, True, True, True], "the first starts from the float weights"
    assert not any(after[number] for number in range(16) if number in after)
    for record in whole.trials[16:]:
        assert after[record.number] == tuple(sweep.records[each].policy for each in record.after)
    part = Notes()
    drive_and_watch(warm(part), stop_after=18)
    resumed = warm(part)
    resumed.replay(tuple(part.trials))
    assert drive_and_watch(resumed) == {number: after[number] for number in (18, 19)}
    assert [each.after for each in part.trials] == [each.after for each in whole.trials]
