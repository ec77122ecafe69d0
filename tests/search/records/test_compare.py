"""Comparing sweeps: figures against hand counts, and what is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from quant_core.util.errors import InputError
from search.records.compare import compare
from search.records.record import SweepRecord, TrialRecord

MakeSweep = Callable[..., SweepRecord]


def placed(sweep: SweepRecord, name: str, points: list[tuple[float, float]]) -> SweepRecord:
    """Return a sweep whose trials lie at given points of (error, weight_bytes)."""

    def move(trial: TrialRecord, error: float, size: float) -> TrialRecord:
        metrics = {"accuracy": 1 - error, "error": error}
        return replace(trial, result=replace(trial.result, status="ok", metrics=metrics, cost={"weight_bytes": size}))

    trials = tuple(move(trial, *point) for trial, point in zip(sweep.trials, points, strict=False))
    return replace(sweep, name=name, run_id=f"{name}-id-0000", trials=trials, reference={"error": 1.0, "weight_bytes": 10.0})


@pytest.fixture
def pair(make_sweep: MakeSweep) -> tuple[SweepRecord, SweepRecord]:
    base = make_sweep(trials=3)
    a = placed(base, "a", [(0.2, 8.0), (0.5, 2.0), (0.6, 9.0)])
    return a, placed(base, "b", [(0.3, 8.0), (0.5, 2.0), (0.1, 9.0)])


def test_figures_of_two_fronts(pair: tuple[SweepRecord, SweepRecord]) -> None:
    comparison = compare(pair, {"weight_bytes": [1.0, 2.0, 8.5, 20.0]})
    assert comparison.names == ("a", "b")
    assert comparison.objectives == ("error", "weight_bytes")
    assert comparison.reference == {"error": 1.0, "weight_bytes": 10.0}
    assert comparison.hypervolume == pytest.approx(((2 * 0.8 + 6 * 0.5) / 10, (1 * 0.9 + 1 * 0.7 + 6 * 0.5) / 10))
    assert comparison.coverage == ((1.0, 2 / 3), (1 / 2, 1.0))  # a covers b's (0.3, 8) and (0.5, 2); b covers a's (0.5, 2)
    assert comparison.attained == {
        "weight_bytes": (
            {"budget": 1.0, "a": None, "b": None},
            {"budget": 2.0, "a": 0.5, "b": 0.5},
            {"budget": 8.5, "a": 0.8, "b": 0.7},
            {"budget": 20.0, "a": 0.8, "b": 0.9},
        )
    }


def test_json_has_every_part(pair: tuple[SweepRecord, SweepRecord]) -> None:
    data = compare(pair, choice="1").to_json()
    assert list(data) == ["sweeps", "objectives", "reference", "dominated_share", "attainment", "layers"]
    assert data["sweeps"][0] | {"hypervolume": 0} == {  # type: ignore[index]
        "name": "a",
        "run_id": "a-id-0000",
        "trials": 3,
        "failed": 0,
        "front": 2,
        "hypervolume": 0,
        "picked": pair[0].trials[1].policy.id,
    }
    assert data["dominated_share"] == {"a": {"a": 1.0, "b": pytest.approx(2 / 3)}, "b": {"a": 0.5, "b": 1.0}}
    assert len(data["attainment"]["weight_bytes"]) == 5  # type: ignore[index]


def test_layers_of_the_picked_policies_side_by_side(make_sweep: MakeSweep) -> None:
    a, b = make_sweep("a", trials=2), make_sweep("b", trials=2, layers=7)
    rows = compare([a, b], choice="0").layers
    assert [row["same"] for row in rows] == [True] * 6 + [False]
    assert rows[0]["a"] == rows[0]["b"] == "weight=int4:channel:mse,activation=int8:tensor:ema"
    assert rows[6] | {"b": ""} == {"layer": "body.6.conv", "same": False, "a": "", "b": ""}
    assert not any(row["same"] for row in compare([a, replace(b, trials=(replace(b.trials[1], number=0),))], choice="0").layers)


def test_the_reference_point_and_objectives_are_common(make_sweep: MakeSweep) -> None:
    a, b = make_sweep("a", trials=12), make_sweep("b", trials=12, seed=1, objectives=("error", "latency_s"))
    comparison = compare([a, b])
    assert comparison.objectives == ("error", "weight_bytes", "latency_s")
    assert comparison.reference == {"error": 1.0, "weight_bytes": a.reference["weight_bytes"], "latency_s": b.reference["latency_s"]}
    assert all(0 < volume < 1 for volume in comparison.hypervolume)
    bare = compare([replace(a, reference={}), replace(b, reference={})])
    worst = max(trial.result.cost["weight_bytes"] for members in bare.fronts for trial in members)
    assert bare.reference["weight_bytes"] == pytest.approx(1.1 * worst)


def test_sweeps_of_one_name_are_told_apart(make_sweep: MakeSweep) -> None:
    same = [make_sweep("same", trials=4, seed=seed) for seed in (1, 2)]
    assert compare([replace(sweep, run_id=f"{i}abcdef0123") for i, sweep in enumerate(same)]).names == ("same-0abcdef0", "same-1abcdef0")


def test_an_empty_front_compares_as_nothing(make_sweep: MakeSweep) -> None:
    comparison = compare([make_sweep("a", trials=6), make_sweep("b", trials=6, limits={"weight_bytes": 1.0})])
    assert comparison.hypervolume[1] == 0.0
    assert comparison.picked[1] is None
    assert comparison.coverage == ((1.0, 0.0), (0.0, 0.0))
    assert {row["b"] for row in comparison.layers} == {""}


def test_what_cannot_be_compared(make_sweep: MakeSweep) -> None:
    a, b = make_sweep("a", trials=4), make_sweep("b", trials=4)
    with pytest.raises(InputError, match="1 sweep given; name two or more"):
        compare([a])
    with pytest.raises(InputError, match="budget for joules given; the sweeps have in common: weight_bytes"):
        compare([a, b], {"joules": [1.0]})
    with pytest.raises(InputError, match="no cost in common; their objectives: error, weight_bytes; error"):
        compare([a, replace(b, objectives=("error",), trials=tuple(replace(t, result=replace(t.result, cost={})) for t in b.trials))])
