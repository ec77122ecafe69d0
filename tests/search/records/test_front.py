"""The front of a record, its rows, and picking from it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from quant_core.util.errors import BitfrontError, InputError
from search.problem.pareto import non_dominated
from search.records.front import all_rows, front_members, front_rows, pick, points
from search.records.record import SweepRecord

MakeSweep = Callable[..., SweepRecord]
KEYS = [
    "id",
    "trial",
    "accuracy_valid",
    "accuracy_test",
    "accuracy_float_test",
    "latency_s",
    "energy_j",
    "weight_bytes",
    "float_weight_bytes",
    "bits_weight_avg",
    "fidelity",
    "knee",
]


def test_the_front_leaves_out_failed_repeated_and_over_the_limit(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=40)
    free = [trial.number for trial in front_members(sweep)]
    cloud = points([trial for trial in sweep.trials if trial.result.ok], sweep.objectives)
    ended = [trial.number for trial in sweep.trials if trial.result.ok]
    assert free == [ended[i] for i in np.flatnonzero(non_dominated(cloud))]
    limit = sorted(sweep.trials[number].result.cost["weight_bytes"] for number in free)[1]
    limited = front_members(replace(sweep, limits={"weight_bytes": limit}))
    assert 0 < len(limited) < len(free)
    assert all(trial.result.cost["weight_bytes"] <= limit for trial in limited)
    first = sweep.trials[free[0]]
    again = replace(first, number=40, repeated=first.number)
    assert [trial.number for trial in front_members(replace(sweep, trials=(*sweep.trials, again)))] == free


def test_rows_have_exactly_the_promised_keys(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=40)
    members = front_members(sweep)
    rows = front_rows(sweep, members)
    assert [list(row) for row in rows] == [KEYS] * len(members)
    assert sum(bool(row["knee"]) for row in rows) == 1
    assert rows[0]["energy_j"] is None
    assert rows[0]["float_weight_bytes"] == 64.0 * 32 * 6
    every = all_rows(sweep, members)
    assert [row["trial"] for row in every] == list(range(40))
    assert {row["trial"] for row in every if row["status"] == "failed"} == {9, 19, 29, 39}
    assert {row["trial"] for row in every if row["front"]} == {trial.number for trial in members}


def test_picking(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=40)
    members = front_members(sweep)
    knee = next(row["trial"] for row in front_rows(sweep, members) if row["knee"])
    assert pick(sweep, "knee").number == knee
    limit = 64.0 * 6 * 4
    feasible = [trial for trial in members if trial.result.cost["weight_bytes"] <= limit]
    assert pick(sweep, f"best-under:weight_bytes={limit}") == min(feasible, key=lambda trial: trial.result.metrics["error"])
    assert pick(sweep, members[0].policy.id) == members[0]
    assert pick(sweep, members[0].policy.id[:6]) == members[0]
    assert pick(sweep, "5").number == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zzzz", r"'zzzz' names no policy of sweep 'made-up'; write suggested, max-drop=POINTS, knee, best-under:METRIC=LIMIT"),
        ("", r"'' names no policy"),
        ("best-under:weight_bytes=1", r"limit 1 given, but no policy keeps it: the smallest is"),
        ("best-under:joules=1", r"write best-under:METRIC=LIMIT as in .*, METRIC one of accuracy, .*error, latency_s"),
        ("best-under:latency_s", r"pick 'latency_s' is not of the form best-under:METRIC=LIMIT, for example best-under:latency_s=0.002"),
    ],
)
def test_a_pick_that_names_nothing(make_sweep: MakeSweep, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pick(make_sweep(trials=20), text)


def test_a_pick_that_names_several_policies(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=1000)
    ids = sorted({trial.policy.id for trial in sweep.trials})
    one, two = next((a, b) for a, b in pairwise(ids) if a[:4] == b[:4])
    with pytest.raises(InputError, match=rf"'{one[:4]}' names several policies \({one}, {two}\) of sweep 'made-up'"):
        pick(sweep, one[:4])
    assert pick(sweep, one).policy.id == one


def test_an_empty_front_has_nothing_to_pick(make_sweep: MakeSweep) -> None:
    empty = make_sweep(trials=20, limits={"weight_bytes": 1.0})
    assert front_members(empty) == ()
    assert front_rows(empty, ()) == []
    with pytest.raises(BitfrontError, match="sweep 'made-up' has an empty front"):
        pick(empty, "knee")


def test_the_front_of_a_record_is_found_once(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page asks some fifteen times; with 20,000 trials that took longer than reading them."""
    sweep, seen = make_sweep(trials=40), []
    monkeypatch.setattr("search.records.front.non_dominated", lambda cloud: seen.append(len(cloud)) or non_dominated(cloud))
    assert front_members(sweep) is front_members(sweep)
    assert len(seen) == 1
    assert sweep == make_sweep(trials=40)
    assert len(front_members(replace(sweep, trials=sweep.trials[:5]))) <= 5
    assert len(seen) == 2
