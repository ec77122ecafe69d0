"""Parallel coordinates: a line per policy of a front, in the colour of its sweep."""

from collections.abc import Callable

import pytest

from search.records.compare import compare
from search.records.front import figures
from search.records.palette import color
from search.records.record import SweepRecord
from search.report.comparison import comparison_page
from search.report.parallel import parallel_figure

MakeSweep = Callable[..., SweepRecord]


def test_lines_are_policies_and_colours_are_sweeps(make_sweep: MakeSweep) -> None:
    three = ("error", "weight_bytes", "latency_s")
    comparison = compare([make_sweep("random", seed=0, objectives=three), make_sweep("tpe", seed=5, objectives=three)])
    figure = parallel_figure(comparison)
    assert [trace.name for trace in figure.data] == ["random", "tpe"]
    assert [trace.line.color for trace in figure.data] == [trace.marker.color for trace in figure.data] == [color(0), color(1)]
    titles = list(figure.layout.xaxis.ticktext)
    assert titles[2:] == ["size<br>[KiB]", "latency<br>[ms]", "validation<br>error<br>[%]"]
    members = [trial for front in comparison.fronts for trial in front]
    most = max(figures(trial)["weight_bytes"] for trial in members)
    for i, trace in enumerate(figure.data):
        front = comparison.fronts[i]
        assert len(trace.y) == len(front) * (len(titles) + 1)
        for k, trial in enumerate(front):
            one = slice(k * (len(titles) + 1), (k + 1) * (len(titles) + 1))
            assert trace.y[one][-1] is None, "a gap, so that policies are not joined"
            assert all(0 <= height <= 1 for height in trace.y[one][:-1])
            assert (trace.y[one][2] == pytest.approx(1.0)) == (figures(trial)["weight_bytes"] == most)
            assert set(trace.customdata[one][:-1]) == {f"{i}:{trial.number}"}
    assert comparison_page(comparison).count('class="plotly-graph-div"') == 4


def test_empty_fronts_give_an_empty_figure(make_sweep: MakeSweep) -> None:
    comparison = compare([make_sweep("a", limits={"weight_bytes": 1.0}), make_sweep("b", limits={"weight_bytes": 1.0})])
    assert len(parallel_figure(comparison).data) == 0
