"""The figure of a comparison."""

from collections.abc import Callable

from search.records.compare import compare
from search.records.record import SweepRecord
from search.report.comparison import comparison_folder, fronts_figure

MakeSweep = Callable[..., SweepRecord]


def test_a_comparison_has_a_panel_per_pair(make_sweep: MakeSweep) -> None:
    three = ("error", "weight_bytes", "latency_s")
    comparison = compare([make_sweep("a", objectives=three), make_sweep("b", seed=1, objectives=three)])
    traces = [trace for trace in fronts_figure(comparison).data if trace.mode == "markers"]
    assert [trace.name for trace in traces] == ["a", "a, best uniform", "b", "b, best uniform"] * 3
    assert [len(trace.x) for trace in traces[:3:2]] == [len(members) for members in comparison.fronts]
    assert len({trace.marker.color for trace in traces}) == 2
    assert len({trace.marker.symbol for trace in traces if "uniform" not in trace.name}) == 2


def test_pages_of_a_folder_share_one_script(make_sweep: MakeSweep) -> None:
    files = comparison_folder(compare([make_sweep("a b"), make_sweep("../c", seed=1)]))
    assert list(files) == ["index.html", "a-b-1.html", "-c-2.html", "plotly.min.js"]
    for name, text in files.items():
        assert (len(text) > 4_000_000) == (name == "plotly.min.js")
        assert name == "plotly.min.js" or text.count("<script src='plotly.min.js'>") == 1
    assert "<a href='a-b-1.html'>a b</a>" in files["index.html"]
