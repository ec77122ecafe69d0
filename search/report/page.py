"""One HTML file that works offline: plotly's script once inside it, figures, tables."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from quant_core.util.errors import BitfrontError
from search.records.front import Row, front, front_rows
from search.records.record import SweepRecord
from search.report.figures import bits_figure, front_figure, hypervolume_figure

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


def sweep_page(sweep: SweepRecord) -> str:
    """Return the page of a sweep: front, table, bits per layer, hypervolume."""
    rows: list[Row] = front_rows(sweep, front(sweep))
    return page(f"bitfront sweep {sweep.name}", [front_figure(sweep), table(rows, "knee"), bits_figure(sweep), hypervolume_figure(sweep)])


def write(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it.

    Raises:
        BitfrontError: the place cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise BitfrontError(f"cannot write {path}: {error.strerror}; choose another place.") from None
