"""One HTML file that works offline: plotly's script once inside it, figures, tables."""

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from search.records.front import Row, front_members, front_rows
from search.records.record import SweepRecord
from search.records.units import cells, label
from search.report.figures import bits_figure, front_figure, hypervolume_figure
from search.tasks.metrics.info import MetricInfo

_STYLE = (
    "body{font-family:system-ui,sans-serif;margin:24px;color:#222}table{border-collapse:collapse;font-size:13px;margin:12px 0}"
    "th,td{border-bottom:1px solid #ddd;padding:4px 10px;text-align:right}th:first-child,td:first-child{text-align:left}"
    "tr.mark{font-weight:600}"
)


def page(title: str, parts: Sequence[go.Figure | str]) -> str:
    """Return a page of figures and pieces of HTML, in order; it loads nothing from anywhere."""
    body, script = [], True
    for part in parts:
        if isinstance(part, str):
            body.append(part)
        else:
            body.append(part.to_html(full_html=False, include_plotlyjs=script, config={"displaylogo": False, "responsive": True}))
            script = False
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body><h2>{html.escape(title)}</h2>{''.join(body)}</body></html>"


def table(rows: Sequence[Mapping[str, object]], mark: str = "") -> str:
    """Return rows as an HTML table; rows in which `mark` is true are set in bold."""
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = [
        f"<tr{' class=mark' if mark and row[mark] else ''}>" + "".join(f"<td>{html.escape(_cell(row[c]))}</td>" for c in columns) + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def in_units(rows: Sequence[Row], infos: Sequence[MetricInfo] = ()) -> list[Row]:
    """Return rows whose columns of floats are texts in the metric's unit, which the column's name then holds."""
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    texts = {
        name: cells(name, [value if isinstance(value, float) else None for value in values], infos)
        for name, values in columns.items()
        if any(isinstance(value, float) for value in values)
    }
    return [
        {label(name, infos) if name in texts else name: texts[name][i] if name in texts else row[name] for name in row}
        for i, row in enumerate(rows)
    ]


def sweep_page(sweep: SweepRecord) -> str:
    """Return the page of a sweep: front, table, bits per layer, hypervolume."""
    rows = front_rows(sweep, front_members(sweep))
    if sweep.metrics:  # a task without the metric accuracy has no column for it
        rows = [{name: value for name, value in row.items() if value is not None or not name.startswith("accuracy")} for row in rows]
    rows = in_units(rows, sweep.metrics)
    return page(f"bitfront sweep {sweep.name}", [front_figure(sweep), table(rows, "knee"), bits_figure(sweep), hypervolume_figure(sweep)])
