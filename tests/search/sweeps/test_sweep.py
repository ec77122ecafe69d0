from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from quant_core import BitfrontError, Layer, Policy, parse
from search.problem.problem import Problem, Trial
from search.records.record import TrialRecord
from search.records.result import Result
from search.searchers import build
from search.sweeps.sweep import Evaluation, Sweep
from spaces import rules
from spaces.space import Space

W = [parse(f"int{bits}:channel") for bits in (2, 4, 8)]
LAYERS = [Layer(f"l{n}", "linear", 4, 4, (4, 4), (1,), (1,), 16) for n in range(3)]
SPACE: Space = rules.full(LAYERS, {"weight": W, "activation": [parse("int8:tensor")]})


def problem() -> Problem:
    cost = tuple(np.array([2.0, 4.0, 8.0]) for _ in LAYERS)
    return Problem(SPACE.cardinalities, ("error", "weight_bytes"), SPACE.sites, {"weight_bytes": cost}, baselines=rules.uniform(SPACE))


@dataclass
class Notes:
    trials: list[TrialRecord] = field(default_factory=list)
    fronts: list[tuple[int, ...]] = field(default_factory=list)

    def record(self, trial: TrialRecord) -> None:
        self.trials.append(trial)

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        assert knee in numbers
        assert 0 < hypervolume < 1
        self.fronts.append(tuple(numbers))


def make(notes: Notes, searcher: str = "random", trials: int = 12, seed: int = 0) -> Sweep:
    p = problem()
    return Sweep(SPACE, p, build(searcher, p, seed, trials), searcher, trials, p.objectives, (1.0, 26.0), notes)


def evaluate(policy: Policy) -> Result:
    error = sum(2.0 ** -policy[name].weight.bits for name in policy) / 3
    if policy["l0"].weight.bits == 2 and policy["l1"].weight.bits == 8:
        return Result(policy.id, status="failed", reason="no such kernel")
    return Result(policy.id, {"error": error, "accuracy": 1 - error})


def drive(sweep: Sweep, workers: int = 1, stop_after: int = 10**9, order: int = 0) -> None:
    """Evaluate with `workers` trials open; `order` picks which of them finishes first."""
    open_trials: list[Evaluation] = []
    while sweep.told < stop_after:
        while len(open_trials) < workers and (evaluation := sweep.next()):
            open_trials.append(evaluation)
        if not open_trials:
            return
        evaluation = open_trials.pop(order % len(open_trials))
        sweep.finish(evaluation.number, evaluate(evaluation.policy))


def plain(trials: list[TrialRecord]) -> list[tuple[object, ...]]:
    return sorted((t.number, t.origin, t.values, t.result.status, t.repeated) for t in trials)


def test_uniform_policies_come_first_and_the_count_is_exact() -> None:
    notes = Notes()
    sweep = make(notes)
    drive(sweep)
    assert sweep.done
    assert [t.number for t in notes.trials] == list(range(12))
    assert [t.origin for t in notes.trials] == ["baseline"] * 3 + ["random"] * 9
    assert sweep.failed == sum(t.result.status == "failed" for t in notes.trials)
    assert notes.fronts[-1] == sweep.archive.numbers


def test_small_space_ends_when_everything_was_proposed() -> None:
    notes = Notes()
    sweep = make(notes, trials=500)
    drive(sweep)
    assert sweep.done
    assert len(notes.trials) == SPACE.size


class Repeats:
    """Proposes the same two points for ever."""

    def __init__(self) -> None:
        self.count = 0
        self.told: list[Sequence[float] | None] = []

    def ask(self) -> Trial:
        self.count += 1
        return Trial(self.count, ((0, 1, 2), (1, 1, 1))[self.count % 2])

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        self.told.append(objectives)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_policy_is_evaluated_at_most_once(workers: int) -> None:
    notes, searcher = Notes(), Repeats()
    sweep = Sweep(SPACE, problem(), searcher, "repeats", 10, ("error", "weight_bytes"), (1.0, 26.0), notes)
    evaluated: list[str] = []
    open_trials: list[Evaluation] = []
    while not sweep.done:
        while len(open_trials) < workers and (evaluation := sweep.next()):
            open_trials.append(evaluation)
        if open_trials:
            evaluation = open_trials.pop()
            evaluated.append(evaluation.policy.id)
            sweep.finish(evaluation.number, evaluate(evaluation.policy))
    assert len(set(evaluated)) == len(evaluated) == 4, "three uniform policies, one of which is proposed again, and one other"
    assert len(notes.trials) == len(searcher.told) == 10
    repeats = [t for t in notes.trials if t.repeated >= 0]
    assert len(repeats) == sweep.repeated == 6
    by_number = {t.number: t for t in notes.trials}
    assert all(t.result == by_number[t.repeated].result for t in repeats)


@pytest.mark.parametrize("searcher", ["random", "tpe"])
@pytest.mark.parametrize(("workers", "order"), [(1, 0), (3, 2)])
@pytest.mark.parametrize("killed_at", [0, 2, 7, 11])
def test_replay_continues_as_if_never_stopped(searcher: str, workers: int, order: int, killed_at: int) -> None:
    whole = Notes()
    drive(make(whole, searcher), workers, order=order)
    part = Notes()
    drive(make(part, searcher), workers, stop_after=killed_at, order=order)
    resumed = make(part, searcher)
    resumed.replay(tuple(part.trials))
    drive(resumed, workers, order=order)
    assert resumed.done
    if workers == 1:
        assert plain(part.trials) == plain(whole.trials)
    assert [t.number for t in sorted(part.trials, key=lambda t: t.number)] == list(range(12)), "none lost, none twice"


def test_replay_refuses_a_searcher_that_changed() -> None:
    notes = Notes()
    drive(make(notes, seed=0), stop_after=6)
    with pytest.raises(BitfrontError, match=r"trial \d: 'random' now proposes .* is recorded"):
        make(Notes(), seed=1).replay(notes.trials)
