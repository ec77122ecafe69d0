"""Figures and page of a comparison of sweeps."""

from itertools import combinations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.records.compare import Comparison
from search.records.front import figures
from search.report.page import page, table
from search.report.style import COLORS, label, unit


def fronts_figure(comparison: Comparison) -> go.Figure:
    """Return the fronts over each other, one panel per pair of objectives."""
    pairs = list(combinations(comparison.objectives, 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.09, vertical_spacing=0.12)
    for place, (vertical, horizontal) in enumerate(pairs):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        every = [figures(trial) for members in comparison.fronts for trial in members]
        (x_scale, x_unit), (y_scale, y_unit) = (unit(name, [each[name] for each in every]) for name in (horizontal, vertical))
        for i, (name, members) in enumerate(zip(comparison.names, comparison.fronts, strict=True)):
            ordered = sorted(members, key=lambda trial: figures(trial)[horizontal])
            line = len(comparison.objectives) == 2
            trace = go.Scatter(
                x=[figures(trial)[horizontal] / x_scale for trial in ordered],
                y=[figures(trial)[vertical] / y_scale for trial in ordered],
                text=[f"{name}<br>{trial.policy.id} (trial {trial.number})" for trial in ordered],
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                mode="lines+markers" if line else "markers",
                line={"shape": "hv"},
                marker={"color": COLORS[i % len(COLORS)], "size": 8},
            )
            figure.add_trace(trace, **where)
        figure.update_xaxes(title_text=label(horizontal, x_unit), **where)
        figure.update_yaxes(title_text=label(vertical, y_unit), **where)
    return figure.update_layout(template="plotly_white", height=420 * rows, margin={"t": 40}, legend={"orientation": "h", "y": 1.1})


def comparison_page(comparison: Comparison) -> str:
    """Return the page of a comparison: fronts, hypervolume, dominated share, attainment, differing layers."""
    data = comparison.to_json()
    shares = [
        {"front": name, **{f"of {other}": value for other, value in zip(comparison.names, row, strict=True)}}
        for name, row in zip(comparison.names, comparison.coverage, strict=True)
    ]
    reference = ", ".join(f"{name} = {value:.5g}" for name, value in comparison.reference.items())
    parts: list[go.Figure | str] = [
        fronts_figure(comparison),
        f"<h3>Hypervolume</h3><p>Share of the box from 0 to the common reference point {reference}.</p>",
        table(_rows(data["sweeps"])),
        "<h3>Dominated share</h3><p>What part of each front (column) the front of the row equals or dominates.</p>",
        table(shares),
    ]
    for metric, rows in comparison.attained.items():
        parts += [f"<h3>Best validation accuracy within a budget of {metric}</h3>", table(rows)]
    parts += ["<h3>Layers of the picked policies</h3>", table([row for row in comparison.layers if not row["same"]])]
    return page(f"bitfront: {' against '.join(comparison.names)}", parts)


def _rows(value: object) -> list[dict[str, object]]:
    return [dict(row) for row in value] if isinstance(value, list) else []
