"""Parallel coordinates of the fronts of sweeps: a line per policy over its bits, costs and error, in the colour of its sweep."""

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from search.records.compare import Comparison
from search.records.front import figures
from search.records.palette import color, symbol
from search.records.record import TrialRecord
from search.records.units import unit_of
from search.report.words import axis, hover

BITS = ("bits_weight_avg", "bits_activation_avg")
"""Axes that every policy has, before the objectives."""


def parallel_figure(comparison: Comparison) -> go.Figure:
    """Return the policies of all fronts as lines over one axis per figure, from its least to its greatest value, the error last.

    MLflow's chart of this kind colours lines by a metric; here a colour is a sweep, as everywhere else on the page.
    """
    names = [*BITS, *(name for name in comparison.objectives if name != "error"), "error"]
    members = [trial for front in comparison.fronts for trial in front]
    names = [name for name in names if members and all(name in figures(trial) for trial in members)]
    ends = {name: (min(figures(trial)[name] for trial in members), max(figures(trial)[name] for trial in members)) for name in names}
    figure = go.Figure([_lines(comparison, i, front, ends) for i, front in enumerate(comparison.fronts) if front])
    infos = comparison.sweeps[0].infos
    for place, name in enumerate(names):
        for value, height, anchor in zip(ends[name], (-0.03, 1.03), ("top", "bottom"), strict=True):
            options = {"yanchor": anchor, "showarrow": False, "font": {"size": 11}}
            figure.add_annotation(x=place, y=height, text=unit_of(name, infos).number(value), **options)
        figure.add_vline(x=place, line_width=1, line_color="rgba(128, 128, 128, 0.5)")
    titles = [axis(name, comparison.sweeps[0]).replace(" ", "<br>") for name in names]
    ticks = {"tickvals": list(range(len(names))), "ticktext": titles, "tickangle": 0, "tickfont": {"size": 11}}
    figure.update_xaxes(showgrid=False, zeroline=False, range=[-0.4, len(names) - 0.6], **ticks)
    figure.update_yaxes(visible=False, range=[-0.14, 1.14])
    legend = {"orientation": "h", "y": -0.22, "x": 0, "yanchor": "top"}
    return figure.update_layout(template="plotly_white", height=420, margin={"l": 10, "r": 10, "t": 30, "b": 60}, legend=legend)


def _lines(comparison: Comparison, i: int, front: Sequence[TrialRecord], ends: dict[str, tuple[float, float]]) -> go.Scatter:
    """Return the lines of sweep `i`, with a gap between policies; heights are shares of the range of an axis."""
    x: list[int | None] = []
    y: list[float | None] = []
    keys: list[str | None] = []
    texts: list[str | None] = []
    for trial in front:
        values = figures(trial)
        heights = [(values[name] - low) / (high - low) if high > low else 0.5 for name, (low, high) in ends.items()]
        x, y = [*x, *range(len(heights)), None], [*y, *heights, None]
        keys = [*keys, *[f"{i}:{trial.number}"] * len(heights), None]
        texts = [*texts, *[f"<b>{html.escape(comparison.names[i])}</b><br>{hover(comparison.sweeps[i], trial)}"] * len(heights), None]
    marker, line = {"color": color(i), "symbol": symbol(i), "size": 7}, {"color": color(i), "width": 1.5}
    shape = {"mode": "lines+markers", "marker": marker, "line": line, "opacity": 0.75}
    return go.Scatter(x=x, y=y, text=texts, customdata=keys, hovertemplate="%{text}<extra></extra>", name=comparison.names[i], **shape)
