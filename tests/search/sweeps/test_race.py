"""The scheduler `race`: who runs against whom, and what searcher, memo, front and record know of those that lost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bitfront
from quant_core import Layer, Policy, parse
from search.evaluation.racing import Incumbent, OutrunError, UnfitError, Watch
from search.problem.problem import Problem, Trial
from search.records.record import TrialRecord
from search.records.result import Result
from search.records.summary import examples_run
from search.sweeps.race import Race
from search.sweeps.sweep import Evaluation, Sweep
from search.tasks.metrics.state import Judged
from search.tasks.task import Task
from spaces import rules
from spaces.space import Space
from tests.search.own_task import trained

LAYERS = [Layer(f"l{n}", "linear", 4, 4, (4, 4), (1,), (1,), 16) for n in range(3)]
SPACE: Space = rules.full(LAYERS, {"weight": [parse(f"int{bits}:channel") for bits in (2, 4, 8)], "activation": [parse("int8:tensor")]})
TOTAL = 64
NOISE = 0.05 * torch.rand(TOTAL, generator=torch.Generator().manual_seed(0))


def problem() -> Problem:
    cost = tuple(np.array([2.0, 4.0, 8.0]) for _ in LAYERS)
    return Problem(SPACE.cardinalities, ("error", "weight_bytes"), SPACE.sites, {"weight_bytes": cost}, baselines=rules.uniform(SPACE))


class Notes:
    """Keeps the trials."""

    def __init__(self) -> None:
        self.trials: list[TrialRecord] = []

    def record(self, trial: TrialRecord) -> None:
        self.trials.append(trial)

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        assert knee in numbers
        assert hypervolume > 0


class Fake:
    """Losses of examples by the bits of a policy, a little apart; every batch of 8 is counted."""

    def __init__(self, fault: str = "") -> None:
        self.fault, self.batches = fault, 0
        self.rivals: dict[str, int | None] = {}
        self._rival: int | None = None

    def watch(self, objective: str, incumbent: Incumbent | None, confidence: float) -> Watch:
        self._rival = incumbent.number if incumbent else None
        return Watch(Task(torch.nn.Identity(), [], [], [], []), objective, TOTAL, incumbent, confidence)

    def __call__(self, policy: Policy, fidelity: str = "ptq", after: Sequence[Policy] = (), watch: Watch | None = None) -> Result:
        losses = loss_of(policy) + NOISE * (1 + policy["l0"].weight.bits)
        self.rivals[policy.id] = self._rival if watch else None
        result = Result(policy.id, {"loss": float(losses.mean()), "error": 0.5}, examples=TOTAL)
        try:
            for part in torch.split(losses, 8):
                self.batches += 1
                if watch and self.fault:
                    raise UnfitError(self.fault)
                logits = torch.stack([torch.zeros(8), torch.log(torch.expm1(part))], dim=1)
                if watch:
                    watch.add(Judged(logits, torch.zeros(8, dtype=torch.long)), None, dict)
        except OutrunError as stop:
            return stop.of(result)
        return result


def loss_of(policy: Policy) -> float:
    return 0.1 + sum(2.0 ** -policy[name].weight.bits for name in policy)


class Listed:
    """Proposes points of a list, and keeps what it is told."""

    def __init__(self, *points: tuple[int, ...]) -> None:
        self.points, self.told = list(points), dict[tuple[int, ...], Any]()

    def ask(self) -> Trial | None:
        return Trial(0, self.points.pop(0)) if self.points else None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        self.told[trial.values] = objectives


BAD = (0, 0, 1)
"""Of 2, 2 and 4 bits: a member of the front."""
WORSE = (0, 2, 0)
"""Of 2, 8 and 2 bits: larger than the uniform policy of 4 bits, and worse."""


def made(searcher: Listed, notes: Notes, trials: int = 20) -> Sweep:
    return Sweep(SPACE, problem(), searcher, "listed", trials, ("loss", "weight_bytes"), (2.0, 26.0), notes)


def drive(sweep: Sweep, race: Callable[[Evaluation], Result]) -> None:
    while (evaluation := sweep.next()) is not None:
        sweep.finish(evaluation.number, race(evaluation))


def test_a_trial_runs_against_the_best_that_costs_no_more_and_stops_where_it_is_worse() -> None:
    fake, notes, searcher = Fake(), Notes(), Listed(WORSE, BAD, (1, 2, 2))
    sweep = made(searcher, notes)
    drive(sweep, Race(sweep, fake))
    results = {trial.values: trial.result for trial in notes.trials}
    assert [results[values].status for values in (WORSE, BAD, (1, 2, 2))] == ["stopped", "ok", "ok"]
    assert fake.rivals[SPACE.policy(WORSE).id] == 1, "the uniform policy of 4 bits, of 12 bytes against 12"
    assert fake.rivals[SPACE.policy(BAD).id] == 0
    assert all(fake.rivals[SPACE.policy(values).id] is None for values in problem().baselines), "uniform policies run to their end"
    assert fake.batches == 5 * 8 + 1, "an eighth for the one that lost"
    assert results[WORSE].examples == 8
    lost = next(trial.number for trial in notes.trials if trial.values == WORSE)
    assert lost not in sweep.archive.numbers
    whole = Fake()(SPACE.policy(WORSE)).metrics["loss"]
    assert searcher.told[WORSE][0] == pytest.approx(whole, abs=0.1), "the searcher is told an estimate"
    assert searcher.told[WORSE][0] > results[(1, 1, 1)].metrics["loss"]
    assert searcher.told[WORSE][1] == 12.0


def test_a_stopped_policy_is_never_served_as_a_whole_result() -> None:
    fake, notes = Fake(), Notes()
    sweep = made(Listed(WORSE, WORSE), notes)
    drive(sweep, Race(sweep, fake))
    first, second = notes.trials[-2:]
    assert (first.result.status, second.result.status, second.repeated) == ("stopped", "stopped", first.number)
    evaluation = Evaluation(99, Trial(-1, WORSE), "ladder", SPACE.policy(WORSE), "ptq", 0)
    sweep._open[99] = evaluation
    assert sweep._start(99) == evaluation, "a promoted trial is evaluated, whatever lost a race"
    sweep.finish(99, Race(sweep, fake)(evaluation))
    assert sweep.records[99].result.ok
    sweep._open[100] = Evaluation(100, Trial(0, WORSE), "listed", SPACE.policy(WORSE), "ptq", 0)
    assert sweep._start(100) is None
    assert sweep.records[100].result.ok, "and its figures are served from then on"


def test_those_that_wait_for_a_trial_that_loses_are_evaluated_where_they_may_not_be_stopped() -> None:
    sweep = made(Listed(WORSE), Notes())
    race = Race(sweep, Fake())
    for _ in range(3):
        uniform = sweep.next()
        assert uniform
        sweep.finish(uniform.number, race(uniform))
    leader = sweep.next()
    assert leader
    sweep._open[99] = promoted = Evaluation(99, Trial(-1, WORSE), "ladder", SPACE.policy(WORSE), "ptq", 0)
    assert sweep._start(99) is None
    sweep.finish(leader.number, race(leader))
    assert sweep.next() == promoted


def test_a_resumed_race_measures_an_incumbent_again_and_decides_alike() -> None:
    points = [(0, 1, 2), WORSE, (1, 0, 2), (2, 0, 0), (1, 1, 2), (2, 1, 0), (0, 2, 2)]
    whole, searcher = Notes(), Listed(*points)
    sweep = made(searcher, whole)
    drive(sweep, Race(sweep, Fake()))
    statuses = [trial.result.status for trial in whole.trials]
    assert {"ok", "stopped"} == set(statuses)
    for kept in range(4, len(whole.trials)):
        part, again = Notes(), Listed(*points)
        resumed = made(again, part)
        resumed.replay(whole.trials[:kept])
        assert again.told == {trial.values: searcher.told[trial.values] for trial in whole.trials[:kept]}
        drive(resumed, Race(resumed, Fake()))
        assert [trial.result.status for trial in part.trials] == statuses[kept:]
        assert again.told == searcher.told
        extra = sum(a.result.examples - b.result.examples for a, b in zip(part.trials, whole.trials[kept:], strict=True))
        assert extra % TOTAL == 0, "an incumbent's second pass is counted at the trial that needed it"


def test_where_single_examples_have_no_loss_all_run_to_their_end(caplog: pytest.LogCaptureFixture) -> None:
    fake, notes = Fake("the loss of single examples fails"), Notes()
    sweep = made(Listed(WORSE), notes)
    drive(sweep, Race(sweep, fake))
    assert [trial.result.status for trial in notes.trials] == ["ok"] * 4
    assert fake.batches == 1 + 4 * 8
    assert [record.message for record in caplog.records] == [
        "the loss of single examples fails, so no trial can lose a race: all run to their end."
    ]


def own_task() -> Task:
    model, inputs, targets = trained()
    valid = list(zip(torch.split(inputs[400:640], 15), torch.split(targets[400:640], 15), strict=True))
    return Task(model, train=valid, calib=[(inputs[:128], targets[:128])], valid=valid, test=[(inputs[640:], targets[640:])])


def swept(race: bool, **more: Any) -> bitfront.Sweep:
    options = {"run": {"scheduler": "race"}} if race else {}
    weight, activation = {"bits": [2, 3, 4, 8], "granularity": "channel"}, ["int8:tensor", "int2:tensor"]
    return bitfront.sweep(
        own_task, weight=weight, activation=activation, device="counts", trials=30, searcher="random", seed=1, options=options, **more
    )


def test_a_sweep_with_races_has_the_figures_of_one_without(store_uri: str, tmp_path: Path) -> None:
    raced, plain = swept(True, record=store_uri, name="raced"), swept(False, record=None)
    assert [trial.values for trial in raced.record.trials] == [trial.values for trial in plain.record.trials]
    pairs = [(a.result, b.result) for a, b in zip(raced.record.trials, plain.record.trials, strict=True)]
    assert all(a.metrics == b.metrics for a, b in pairs if a.ok), "to the last bit"
    lost = [a for a, _ in pairs if a.status == "stopped"]
    assert len(lost) >= 5
    assert list(raced.front()["trial"].dropna()) == list(plain.front()["trial"].dropna())
    seen, without = examples_run(raced.record)
    assert seen < 0.9 * without
    assert without == 240 * sum(trial.repeated < 0 for trial in raced.record.trials)
    from mlflow import MlflowClient

    client = MlflowClient(store_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`bitfront.status` = 'stopped'")
    assert sorted(int(run.data.tags["bitfront.examples_valid"]) for run in runs) == sorted(result.examples for result in lost)
    read = bitfront.load("raced", uri=store_uri)
    assert [trial.result for trial in read.record.trials] == [trial.result for trial in raced.record.trials], "estimates too"
