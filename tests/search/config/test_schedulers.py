"""Schedulers: which go with which experiment, and what they compare. Stopped trials: tests/search/sweeps/ray/test_schedulers.py."""

from types import SimpleNamespace
from typing import Any

import pytest

from quant_core.util.errors import InputError
from search.config.files import dumps, loads
from search.config.schedulers import SCHEDULERS, split, stops_trials

GOOD = '[task]\nname = "digits"\n[space]\nweight = ["int4:channel"]\nactivation = "int8:tensor"\n[device]\nname = "counts"\n'
QAT = '[evaluate]\nfidelity = "qat"\n'


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[run]\nscheduler = "ashe"\n', r"\[run\] unknown scheduler 'ashe'; known: asha, hyperband, none, pbt, race. Did you mean 'asha'"),
        (
            '[run]\nscheduler = "asha"\n',
            r"\[run\] scheduler = 'asha' stops trials on workers, and backend = 'local' has none; give backend",
        ),
        ('[run]\nscheduler = "mine:make"\n', "scheduler = 'mine:make' stops trials on workers"),
        (
            '[run]\nscheduler = "pbt"\n',
            "scheduler = 'pbt' trains policies by a population, and no policy is trained; give evaluate.fidelity = 'qat' or a",
        ),
        (QAT + '[run]\nscheduler = "pbt"\nscheduler_options = { grace = 1 }\n', "scheduler 'pbt' has no option 'grace'; it takes members"),
        (
            QAT + '[run]\nscheduler = "pbt"\nscheduler_options = { members = 1 }\n',
            "members = 1 of scheduler 'pbt' given; a whole number of 2 or",
        ),
        (QAT + '[run]\nscheduler = "pbt"\nscheduler_options = { every = 1.5 }\n', "every = 1.5 of scheduler 'pbt' given; a whole number"),
        (
            '[run]\nbackend = "ray"\nscheduler = "asha"\nscheduler_options = { reduction = "a" }\n',
            "reduction = 'a' of scheduler 'asha' given; a number of 1.1 or more",
        ),
        (
            '[run]\nbackend = "ray"\nscheduler = "race"\n',
            "compares trials in one process, and backend = 'ray' given; give backend = 'local'",
        ),
        (
            '[run]\nscheduler = "race"\nscheduler_options = { confidence = 1 }\n',
            "confidence = 1 of scheduler 'race' given; a number below 1",
        ),
        ('[run]\nscheduler = "race"\nscheduler_options = { confidence = -0.1 }\n', "confidence = -0.1 .* a number of 0.0 or more"),
        ("[run]\nscheduler_options = { grace = 1 }\n", "scheduler 'none' has no option 'grace'; it takes none"),
        ('[search]\nsearcher = "ray:ASHA+random"\n', "scheduler = 'asha' stops trials on workers"),
        (
            '[search]\nsearcher = "ray:ASHA+random"\n[run]\nbackend = "ray"\nscheduler = "pbt"\n',
            r"searcher = 'ray:ASHA\+random' and run.scheduler = 'pbt' given; name one scheduler",
        ),
    ],
)
def test_bad_combinations_are_named(more: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loads(GOOD + more)


def test_they_are_named_with_all_other_faults() -> None:
    with pytest.raises(InputError, match=r"(?s)2 faults.*\[search.trials\].*\[run\] unknown scheduler 'ashe'"):
        loads(GOOD + '[search]\ntrials = 0\n[run]\nscheduler = "ashe"\n')


def test_the_shorthand_is_a_searcher_and_a_scheduler() -> None:
    experiment = loads(GOOD + '[search]\nsearcher = "ray:ASHA+OptunaSearch"\n[run]\nbackend = "ray"\n')
    assert (experiment.search.searcher, experiment.run.scheduler) == ("ray:OptunaSearch", "asha")
    assert loads(dumps(experiment)) == experiment
    assert split("ray:OptunaSearch") == ("ray:OptunaSearch", "")
    assert split("haq+") == ("haq+", "")


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if stops_trials(name)])
@pytest.mark.filterwarnings("ignore")
def test_what_is_far_above_the_front_is_stopped_and_nothing_on_it(name: str) -> None:
    from quant_core.util.registry import load
    from search.sweeps.ray.cluster import settled
    from search.sweeps.ray.near_front import NearFront

    with settled():
        make: Any = load(SCHEDULERS[name].path)
        scheduler = NearFront(make(9, reduction=2.0), ("bytes",))
    decided = {}
    for number in range(24):  # every third is as good as its bytes allow, the others are worse by 0.1 and more
        cost, away = 1.0 + number % 8, 0.1 * (number % 3) * (1 + number / 24)
        trial = SimpleNamespace(trial_id=str(number), config={"cost": {"bytes": cost}})
        scheduler.on_trial_add(None, trial)
        decided[number] = [
            scheduler.on_trial_result(None, trial, {"score": 1 / cost + away, "training_iteration": rung}) for rung in range(1, 5)
        ]
    stopped = {number for number, decisions in decided.items() if "STOP" in decisions}
    assert len(stopped) >= 4
    assert not {number for number in stopped if number % 3 == 0}, "the cheapest has the largest error, and stays"
    trial = SimpleNamespace(trial_id="x", config={"cost": {"bytes": 1.0}})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"training_iteration": 1}) == "CONTINUE", "what has no score is not stopped"


def test_one_objective_is_compared_as_it_is() -> None:
    from search.sweeps.ray.near_front import NearFront

    trial = SimpleNamespace(trial_id="x", config={"cost": {"bytes": 1.0}})
    assert NearFront(None, ()).judged(trial, {"score": 0.3, "training_iteration": 1})["score"] == 0.3
