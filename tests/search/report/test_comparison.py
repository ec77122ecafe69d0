"""The figure of a comparison."""

from collections.abc import Callable

from search.records.compare import compare
from search.records.record import SweepRecord
from search.report.comparison import fronts_figure

MakeSweep = Callable[..., SweepRecord]


def test_a_comparison_has_a_panel_per_pair(make_sweep: MakeSweep) -> None:
    three = ("error", "weight_bytes", "latency_s")
    comparison = compare([make_sweep("a", objectives=three), make_sweep("b", seed=1, objectives=three)])
    traces = fronts_figure(comparison).data
    assert [trace.name for trace in traces] == ["a", "b"] * 3
    assert [len(trace.x) for trace in traces[:2]] == [len(members) for members in comparison.fronts]
