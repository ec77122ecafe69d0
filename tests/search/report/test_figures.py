"""Figures of a sweep hold the points that they claim."""

from collections.abc import Callable

import pytest

from search.problem.pareto import Archive
from search.records.front import front_members
from search.records.record import SweepRecord
from search.records.summary import best_uniform, suggested
from search.report.figures import bits_figure, front_figure, hypervolume_curve, hypervolume_figure, step_line

MakeSweep = Callable[..., SweepRecord]


def test_the_front_figure_shows_every_trial_once(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=40, limits={"weight_bytes": 2000.0})
    traces = {trace.name: trace for trace in front_figure(sweep).data}
    members = front_members(sweep)
    ended = sum(trial.result.ok for trial in sweep.trials)
    assert len(traces["trials"].x) + len(traces["uniform"].x) + len(traces["front"].x) == ended
    (uniform,) = traces["best uniform"].customdata
    assert uniform == best_uniform(sweep).number  # type: ignore[union-attr]
    assert list(traces["suggested"].customdata) == [suggested(sweep, members).number]  # type: ignore[union-attr]
    assert "points to float" in traces["front"].text[0]
    assert "weights int" in traces["front"].text[0]
    assert len(traces["front"].x) == len(members)
    assert len(traces["knee"].x) == 1
    assert sorted(traces["front"].y) == pytest.approx(sorted(100 * trial.result.metrics["error"] for trial in members))
    sizes = sorted(trial.result.cost["weight_bytes"] / 1024 for trial in members)
    assert list(traces["front"].x) == pytest.approx(sizes)
    reference, limit = front_figure(sweep).layout.shapes
    assert reference.y0 == pytest.approx(2.0)  # the float network
    assert limit.x0 == pytest.approx(2000 / 1024)
    assert [note.text for note in front_figure(sweep).layout.annotations] == ["float 98.00 %", "budget 1.953 KiB"]


def test_three_objectives_give_two_panels(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30, objectives=("error", "weight_bytes", "latency_s"))
    figure = front_figure(sweep)
    assert figure.layout.xaxis.title.text == "size [KiB]"
    assert figure.layout.xaxis2.title.text == "latency [ms]"
    assert [len(trace.x) for trace in figure.data if trace.name == "front"] == [len(front_members(sweep))] * 2


def test_the_line_is_the_least_error_within_a_budget(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=60, objectives=("error", "weight_bytes", "latency_s"))
    members = front_members(sweep)
    line = step_line(sweep, members, "latency_s", "black")
    assert list(line.y) == sorted(line.y, reverse=True)
    for x, y in zip(line.x, line.y, strict=True):
        within = [100 * t.result.metrics["error"] for t in members if 1000 * t.result.cost["latency_s"] <= x * (1 + 1e-12)]
        assert y == pytest.approx(min(within))


def test_the_hypervolume_axis_shows_what_the_search_added(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=60)
    low, high = hypervolume_figure(sweep).layout.yaxis.range
    steps, volumes = hypervolume_curve(sweep)
    assert low < volumes[steps.index(2)] < volumes[-1] < high
    assert low > 0


def test_the_heat_map_holds_the_bits(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30)
    weights, activations = bits_figure(sweep).data
    members = sorted(front_members(sweep), key=lambda trial: trial.result.cost["weight_bytes"])
    assert list(weights.x) == [trial.policy.id for trial in members]
    assert list(weights.y) == list(members[0].policy)
    assert [list(line) for line in weights.z] == [list(line) for line in zip(*(trial.values for trial in members), strict=True)]
    assert {bits for line in activations.z for bits in line} == {8}


def test_the_hypervolume_curve_is_the_archives(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30)
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    expected = []
    for trial in sweep.trials:
        if trial.result.ok:
            archive.add(trial.number, (trial.result.metrics["error"], trial.result.cost["weight_bytes"]))
        expected.append(archive.hypervolume)
    steps, volumes = hypervolume_curve(sweep)
    at = dict(zip(steps, volumes, strict=True))
    assert steps[-1] == 30
    assert all(at[count] == pytest.approx(expected[count - 1]) for count in steps[1:])
    assert list(hypervolume_figure(sweep).data[0].y) == volumes
