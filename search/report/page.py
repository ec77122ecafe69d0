"""One HTML file that works offline: plotly's script once inside it, figures, tables."""

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from search.records import timing
from search.records.front import Row, figures, front_members, front_rows
from search.records.layers import LayerFigures
from search.records.record import SweepRecord
from search.records.selection import suggestion
from search.records.summary import best_uniform, suggested
from search.records.units import cells, label, shown, title_of
from search.report.figures import bits_figure, front_figure, hypervolume_figure
from search.report.layers import about, layer_figures_of
from search.report.panel import panel_data
from search.report.script import PANEL, SCRIPT, STYLE
from search.report.words import axis, judged
from search.tasks.metrics.info import MetricInfo

SHARED = "plotly.min.js"
"""Plotly's script, beside pages that share it."""


def page(title: str, parts: Sequence[go.Figure | str], lead: str = "", *, shared: str = "") -> str:
    """Return a page of figures and pieces of HTML, in order; it loads nothing from anywhere but `shared`, where that is given.

    Args:
        title: heading, as text.
        parts: figures and pieces of HTML.
        lead: a sentence under the title, as text.
        shared: address of plotly's script in the page's own folder; "": it is in the page.
    """
    body = [part if isinstance(part, str) else _drawn(part) for part in parts]
    script = f"<script src='{html.escape(shared)}'></script>" if shared else f"<script>{get_plotlyjs()}</script>"
    name = html.escape(title)
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width,initial-scale=1'><meta name='color-scheme' "
    head += f"content='light dark'><title>{name}</title><style>{STYLE}</style>{script}"
    said = f"<p class='lead'>{html.escape(lead)}</p>" if lead else ""
    main = f"<main><h1>{name}</h1>{said}{''.join(body)}</main>{PANEL}<script>{SCRIPT}</script>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{main}</body></html>"


def _drawn(figure: go.Figure) -> str:
    """Return a figure in the page's colours: those of the paper, with lines that the page's script sets."""
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", title=None, autosize=True)
    figure.update_layout(modebar_bgcolor="rgba(0,0,0,0)")
    figure.update_layout(margin_t=30).update_xaxes(automargin=True).update_yaxes(automargin=True)
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}))


def folder_of_pages(pages: Mapping[str, str]) -> dict[str, str]:
    """Return file names and texts of pages that share plotly's script, which `page` was told is `SHARED`, and that script."""
    return {**pages, SHARED: str(get_plotlyjs())}


def side_by_side(figures: Sequence[go.Figure]) -> str:
    """Return figures beside each other, or below each other on a narrow screen."""
    return f"<div class='grid'>{''.join(f'<div>{_drawn(figure)}</div>' for figure in figures)}</div>"


def table(rows: Sequence[Mapping[str, object]], mark: str = "", about: str = "", buttons: Mapping[str, str] | None = None) -> str:
    """Return rows as an HTML table that scrolls by itself where it is wide.

    Args:
        rows: with the same keys, the titles of the columns.
        mark: rows in which this is true are set in bold.
        about: what a screen reader says that the table is.
        buttons: text of a cell in the first column -> key of the policy whose panel it opens.
    """
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in columns)
    lines = [
        f"<tr{' class=mark' if mark and row[mark] else ''}>" + "".join(_td(row[name], buttons or {}) for name in columns) + "</tr>"
        for row in rows
    ]
    label = f" aria-label='{html.escape(about, quote=True)}'" if about else ""
    text = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<div class='wide' tabindex='0' role='region'{label}>{text}</div>"


def _td(value: object, buttons: Mapping[str, str]) -> str:
    text = html.escape(_cell(value))
    key = buttons.get(value) if isinstance(value, str) else None
    return f"<td>{text}</td>" if key is None else f"<td><button data-policy='{html.escape(key, quote=True)}'>{text}</button></td>"


def _cell(value: object) -> str:
    return "" if value is None or value is False else "yes" if value is True else f"{value:.6g}" if isinstance(value, float) else str(value)


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


def sweep_page(sweep: SweepRecord, *, shared: str = "", layers: LayerFigures | None = None) -> str:
    """Return the page of a sweep: front, table, bits per layer, sensitivities and costs where `layers` has them, hypervolume.

    `shared` as `page` takes it.
    """
    members = front_members(sweep)
    costs = [name for name in sweep.objectives if name != "error"]
    ordered = sorted(members, key=lambda trial: figures(trial).get(costs[0], 0.0) if costs else trial.number)
    rows = front_rows(sweep, ordered)
    constant = {name for name in (rows[0] if rows else {}) if name.endswith("_float_test") or name == "float_weight_bytes"}
    empty = {name for name in (rows[0] if rows else {}) if all(row[name] in (None, "ptq") for row in rows)}
    rows = in_units([{name: value for name, value in row.items() if name not in constant | empty} for row in rows], sweep.metrics)
    uniform, pick = best_uniform(sweep), suggested(sweep, members)
    notes = [(str(row["id"]), "knee") for row in rows if row["knee"]]
    notes += [(trial.policy.id, word) for trial, word in ((uniform, "best uniform"), (pick, "suggested")) if trial is not None]
    marks = {policy: ", ".join(word for other, word in notes if other == policy) for policy, _ in notes}
    parts: list[go.Figure | str] = [
        side_by_side([front_figure(sweep, [cost]) for cost in costs] or [front_figure(sweep)]),
        "<p class='soft'>Point at a policy to read it; click it, or press its button below, for its layers and commands.</p>",
        "<h2>Policies of the front</h2>",
        table([_named(row, marks) for row in rows], "", "policies of the front", {trial.policy.id: str(trial.number) for trial in members}),
        _float_line(sweep),
        *_measured(sweep),
        f"<h2>Bits per layer over the front, by {html.escape(axis(costs[0] if costs else 'error', sweep).partition(' [')[0])}</h2>",
        side_by_side([bits_figure(sweep, [slot]) for slot in ("weight", "activation")]),
        *_of_layers(layers),
        "<h2>Hypervolume over the trials</h2>",
        hypervolume_figure(sweep),
        panel_data([(sweep, [*ordered, *([uniform] if uniform and uniform not in members else [])])]),
    ]
    return page(f"bitfront sweep {sweep.name}", parts, summary(sweep), shared=shared)


def _of_layers(layers: LayerFigures | None) -> list[str]:
    """Return the section of single layers."""
    if layers is None:
        return []
    title = f"<h2>Which layers are sensitive, and what they cost</h2><p class='soft'>{html.escape(about(layers))}</p>"
    return [title, side_by_side(layer_figures_of(layers))]


def summary(sweep: SweepRecord) -> str:
    """Return a sweep in a sentence: how many policies its front has, and the suggested one beside the float network."""
    members = front_members(sweep)
    text = f"{len(members)} policies on the front of {len(sweep.trials)} trials."
    chosen = suggestion(sweep, members)
    if chosen is None:
        return text
    pick, shown_of = chosen.trial, [f"{name} {value}" for name, value in judged(sweep, chosen.trial)]
    return f"{text} Suggested: {pick.policy.id} (trial {pick.number}), {chosen.note}: {'; '.join(shown_of)}."


def _float_line(sweep: SweepRecord) -> str:
    """Return the figures of the float network, which every row of the front is to be held against."""
    measured = [
        (f"{info.name}_float_{split}", value)
        for info in sweep.infos
        for split in ("valid", "test")
        if (value := sweep.baseline.get(f"{info.name}_{split}")) is not None
    ]
    texts = [f"{title_of(name, sweep.infos)} {shown(name, value, sweep.infos)}" for name, value in measured]
    texts += [f"size {shown('weight_bytes', sweep.baseline['weight_bytes'])}"] if "weight_bytes" in sweep.baseline else []
    return f"<p>Float network: {html.escape('; '.join(texts) or 'not measured')}.</p>"


def _measured(sweep: SweepRecord) -> list[str]:
    """Return the section of the times that `bitfront measure` took."""
    ids = {trial.number: trial.policy.id for trial in sweep.trials if trial.number in sweep.measured}
    rows = [timing.row(ids[number], entry) for number, entries in sweep.measured.items() if number in ids for entry in entries]
    return ["<h2>Measured in real runtimes, one example</h2>", table(rows, "", "measured times")] if rows else []


def _named(row: Row, marks: Mapping[str, str]) -> Row:
    """Return a row of a front for the page: policy first, what marks it last, in the words of the figures."""
    words = {"id": "policy", label("weight_bytes"): "size [KiB]"}
    return {words.get(name, name): value for name, value in row.items() if name != "knee"} | {"": marks.get(str(row["id"]), "")}
