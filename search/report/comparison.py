"""Figures and page of a comparison of sweeps."""

import html
import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from search.records.compare import Comparison
from search.records.front import Row, figures
from search.records.palette import color, symbol
from search.records.record import ACCURACY, TrialRecord
from search.records.summary import best_uniform
from search.records.units import shown, title_of, unit_of
from search.records.verdict import verdict
from search.report.figures import add_references, step_line
from search.report.page import SHARED, folder_of_pages, page, side_by_side, sweep_page, table
from search.report.panel import panel_data
from search.report.parallel import parallel_figure
from search.report.words import axis, hover
from search.tasks.metrics.info import MetricInfo


def fronts_figure(comparison: Comparison, pairs: Sequence[tuple[str, str]] = ()) -> go.Figure:
    """Return the fronts over each other, one panel per pair of objectives: points, the line of every front, uniform policies, float.

    `pairs` are those to show, (vertical, horizontal); empty: all.
    """
    pairs = pairs or list(combinations(comparison.objectives, 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.09, vertical_spacing=0.12)
    for place, (vertical, horizontal) in enumerate(pairs):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        for i, (sweep, members) in enumerate(zip(comparison.sweeps, comparison.fronts, strict=True)):
            line = step_line(sweep, members, horizontal, color(i), vertical)
            figure.add_trace(line.update(name="line of the front", legendgroup=comparison.names[i], showlegend=False), **where)
            figure.add_trace(_points(comparison, i, (vertical, horizontal), members, legend=place == 0), **where)
            uniform = best_uniform(sweep)
            if uniform is not None and {vertical, horizontal} <= figures(uniform).keys():
                figure.add_trace(_points(comparison, i, (vertical, horizontal), [uniform], legend=place == 0, uniform=True), **where)
        figure.update_xaxes(title_text=axis(horizontal, comparison.sweeps[0]), **where)
        figure.update_yaxes(title_text=axis(vertical, comparison.sweeps[0]), **where)
        if vertical == "error":
            add_references(figure, comparison.sweeps, horizontal, where)
    legend = {"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"}
    return figure.update_layout(template="plotly_white", height=460 * rows, margin={"l": 60, "r": 20, "t": 40, "b": 60}, legend=legend)


def _points(
    comparison: Comparison, i: int, pair: tuple[str, str], trials: Sequence[TrialRecord], *, legend: bool, uniform: bool = False
) -> go.Scatter:
    """Return the points of sweep `i` in one panel, in its colour and symbol; its best uniform policy as an open diamond."""
    (vertical, horizontal), sweep, name = pair, comparison.sweeps[i], comparison.names[i]
    across, down = unit_of(horizontal, sweep.metrics).size, unit_of(vertical, sweep.metrics).size
    ordered = sorted(trials, key=lambda trial: figures(trial)[horizontal])
    marker = {"color": color(i), "symbol": "diamond-open" if uniform else symbol(i), "size": 16 if uniform else 10}
    return go.Scatter(
        x=[figures(trial)[horizontal] / across for trial in ordered],
        y=[figures(trial)[vertical] / down for trial in ordered],
        text=[f"<b>{html.escape(name)}</b><br>{hover(sweep, trial)}" for trial in ordered],
        customdata=[f"{i}:{trial.number}" for trial in ordered],
        hovertemplate="%{text}<extra></extra>",
        name=f"{name}, best uniform" if uniform else name,
        legendgroup=name,
        showlegend=legend,
        mode="markers",
        marker=marker | {"line": {"width": 2 if uniform else 1, "color": color(i) if uniform else "white"}},
    )


def comparison_page(comparison: Comparison, *, shared: str = "", pages: Mapping[str, str] | None = None) -> str:
    """Return the page of a comparison: verdict, fronts, hypervolume, dominated share, attainment, differing layers.

    `shared` as `page` takes it; `pages` are the addresses of the sweeps' own pages, by name.
    """
    data = comparison.to_json()
    shares = [
        {"front": name, **{f"of {other}": f"{value:.0%}" for other, value in zip(comparison.names, row, strict=True)}}
        for name, row in zip(comparison.names, comparison.coverage, strict=True)
    ]
    reference = ", ".join(f"{title_of(metric)} {shown(metric, value)}" for metric, value in comparison.reference.items())
    links = ", ".join(f"<a href='{html.escape(where, quote=True)}'>{html.escape(name)}</a>" for name, where in (pages or {}).items())
    judged = html.escape(comparison.sweeps[0].infos[0].name)
    parts: list[go.Figure | str] = [
        f"<p>Pages of the sweeps: {links}</p>" if links else "",
        side_by_side([fronts_figure(comparison, [pair]) for pair in combinations(comparison.objectives, 2)]),
        "<p class='soft'>Point at a policy to read it; click it for its layers and commands.</p>",
        "<h2>Policies of the fronts</h2><p class='soft'>A line is a policy, its colour the sweep; axes go from least to greatest.</p>",
        parallel_figure(comparison),
        "<h2>Sweeps</h2>",
        f"<p class='soft'>Hypervolume: share of the box from 0 to the common reference point {reference}.</p>",
        table(_rows(data["sweeps"]), about="sweeps", buttons=_picked(comparison)),
        "<h2>Dominated share</h2><p class='soft'>What part of each front (column) the front of the row equals or dominates.</p>",
        table(shares, about="dominated shares"),
    ]
    for metric, rows in comparison.attained.items():
        title = f"<h2>Best validation {judged} within a budget of {title_of(metric)}</h2>"
        parts += [title, table(attained_in_units(metric, rows, comparison.sweeps[0].infos), about=f"best within {metric}")]
    parts += ["<h2>Layers of the picked policies</h2>", table([row for row in comparison.layers if not row["same"]], about="layers")]
    uniform = [[trial] if (trial := best_uniform(sweep)) else [] for sweep in comparison.sweeps]
    parts.append(
        panel_data([(sweep, [*f, *u]) for sweep, f, u in zip(comparison.sweeps, comparison.fronts, uniform, strict=True)], keyed=True)
    )
    return page(f"bitfront: {' against '.join(comparison.names)}", parts, verdict(comparison), shared=shared)


def comparison_folder(comparison: Comparison) -> dict[str, str]:
    """Return the files of a comparison with the page of every sweep: name -> text; they share one copy of plotly's script."""
    names = {name: f"{re.sub(r'[^A-Za-z0-9._-]', '-', name).lstrip('.')}-{i + 1}.html" for i, name in enumerate(comparison.names)}
    pages = {names[name]: sweep_page(sweep, shared=SHARED) for name, sweep in zip(comparison.names, comparison.sweeps, strict=True)}
    return folder_of_pages({"index.html": comparison_page(comparison, shared=SHARED, pages=names), **pages})


def _picked(comparison: Comparison) -> dict[str, str]:
    """Return the keys of the panels of the picked policies, by the text of their sweep's cell."""
    rows = zip(comparison.names, comparison.picked, strict=True)
    return {name: f"{i}:{trial.number}" for i, (name, trial) in enumerate(rows) if trial is not None}


def attained_in_units(metric: str, rows: Sequence[Row], infos: Sequence[MetricInfo] = (ACCURACY,)) -> list[Row]:
    """Return the rows of one budget's attainment as texts, with units."""
    names, judged = {"budget": metric}, infos[0].name
    return [
        {key: shown(names.get(key, judged), value if isinstance(value, float) else None, infos) for key, value in row.items()}
        for row in rows
    ]


def _rows(value: object) -> list[Row]:
    return [dict(row) for row in value] if isinstance(value, list) else []
