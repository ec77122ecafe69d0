"""Figures of single layers: a point per format, a bar per layer and cost, on the page only where they are at hand."""

from collections.abc import Callable

import pytest

from search.records.layers import LayerFigures
from search.records.record import SweepRecord
from search.report.layers import LEAST, cost_figure, sensitivity_figure
from search.report.page import sweep_page

MakeSweep = Callable[..., SweepRecord]
LONG = "encoder.blocks.11.attention.output.depthwise"
FIGURES = LayerFigures(
    ("stem", LONG),
    {"weight": {"stem": {"int2:channel": 0.5, "int8:channel": 0.0}, LONG: {"int2:channel": 0.25, "int8:channel": -1e-9}}},
    "0123456789",
    {"weight_bytes": (512.0, 2048.0), "latency_s": (0.001, 0.0005)},
)


def test_sensitivities_are_points_per_format() -> None:
    two, eight = sensitivity_figure(FIGURES).data
    assert (two.name, list(two.x), list(two.y)) == ("int2:channel", [0.5, 0.25], ["stem", LONG])
    assert list(eight.x) == [LEAST, LEAST], "on a logarithmic axis nothing is 0"
    assert (two.marker.color, two.marker.symbol) != (eight.marker.color, eight.marker.symbol)


def test_costs_are_bars_in_units_that_people_read() -> None:
    figure = cost_figure(FIGURES, "weight_bytes")
    assert list(figure.data[0].x) == [0.5, 2.0]
    assert "KiB" in figure.layout.xaxis.title.text
    assert [len(text) <= 18 for text in figure.layout.yaxis.ticktext] == [True, True]
    assert list(cost_figure(FIGURES, "latency_s").data[0].x) == pytest.approx([1.0, 0.5])


def test_the_page_has_them_where_they_are_at_hand(make_sweep: MakeSweep) -> None:
    sweep, title = make_sweep(trials=12), "Which layers are sensitive, and what they cost"
    assert title not in sweep_page(sweep)
    text = sweep_page(sweep, layers=FIGURES)
    assert title in text
    assert "Costs are those of the policy 0123456789." in text
