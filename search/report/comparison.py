"""Figures and page of a comparison of sweeps."""

import html
from collections.abc import Sequence
from itertools import combinations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.records.compare import Comparison
from search.records.front import Row, figures
from search.records.palette import PALETTE
from search.records.record import ACCURACY
from search.records.units import label, shown, title_of, unit_of
from search.report.page import page, table
from search.tasks.metrics.info import MetricInfo


def fronts_figure(comparison: Comparison) -> go.Figure:
    """Return the fronts over each other, one panel per pair of objectives."""
    pairs = list(combinations(comparison.objectives, 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.09, vertical_spacing=0.12)
    for place, (vertical, horizontal) in enumerate(pairs):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        infos = comparison.sweeps[0].metrics
        across, down = unit_of(horizontal, infos).size, unit_of(vertical, infos).size
        for i, (name, members) in enumerate(zip(comparison.names, comparison.fronts, strict=True)):
            ordered = sorted(members, key=lambda trial: figures(trial)[horizontal])
            line = len(comparison.objectives) == 2
            trace = go.Scatter(
                x=[figures(trial)[horizontal] / across for trial in ordered],
                y=[figures(trial)[vertical] / down for trial in ordered],
                text=[f"{name}<br>{trial.policy.id} (trial {trial.number})" for trial in ordered],
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                mode="lines+markers" if line else "markers",
                line={"shape": "hv"},
                marker={"color": PALETTE[i % len(PALETTE)], "size": 8},
            )
            figure.add_trace(trace, **where)
        figure.update_xaxes(title_text=label(horizontal, infos), **where)
        figure.update_yaxes(title_text=label(vertical, infos), **where)
    return figure.update_layout(template="plotly_white", height=420 * rows, margin={"t": 40}, legend={"orientation": "h", "y": 1.1})


def comparison_page(comparison: Comparison) -> str:
    """Return the page of a comparison: fronts, hypervolume, dominated share, attainment, differing layers."""
    data = comparison.to_json()
    shares = [
        {"front": name, **{f"of {other}": value for other, value in zip(comparison.names, row, strict=True)}}
        for name, row in zip(comparison.names, comparison.coverage, strict=True)
    ]
    reference = ", ".join(f"{title_of(metric)} {shown(metric, value)}" for metric, value in comparison.reference.items())
    parts: list[go.Figure | str] = [
        fronts_figure(comparison),
        f"<h3>Hypervolume</h3><p>Share of the box from 0 to the common reference point {reference}.</p>",
        table(_rows(data["sweeps"])),
        "<h3>Dominated share</h3><p>What part of each front (column) the front of the row equals or dominates.</p>",
        table(shares),
    ]
    for metric, rows in comparison.attained.items():
        judged = html.escape(comparison.sweeps[0].infos[0].name)
        title = f"<h3>Best validation {judged} within a budget of {title_of(metric)}</h3>"
        parts += [title, table(attained_in_units(metric, rows, comparison.sweeps[0].infos))]
    parts += ["<h3>Layers of the picked policies</h3>", table([row for row in comparison.layers if not row["same"]])]
    return page(f"bitfront: {' against '.join(comparison.names)}", parts)


def attained_in_units(metric: str, rows: Sequence[Row], infos: Sequence[MetricInfo] = (ACCURACY,)) -> list[Row]:
    """Return the rows of one budget's attainment as texts, with units."""
    names, judged = {"budget": metric}, infos[0].name
    return [
        {key: shown(names.get(key, judged), value if isinstance(value, float) else None, infos) for key, value in row.items()}
        for row in rows
    ]


def _rows(value: object) -> list[Row]:
    return [dict(row) for row in value] if isinstance(value, list) else []
