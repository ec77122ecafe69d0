"""Plotly figures of one sweep: its front, the bits per layer over the front, the hypervolume over the trials."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from quant_core.util.text import shortened
from search.problem.pareto import Archive
from search.records.front import figures, front_members, keeps_limits, knee_number, points
from search.records.palette import BASELINES, FLOAT, FRONT, KNEE, LIMIT, OTHERS, SUGGESTED
from search.records.record import SweepRecord, TrialRecord
from search.records.summary import BASELINE, best_uniform, suggested
from search.records.units import shown, title_of, unit_of
from search.report.thinning import drawn, thinned_title
from search.report.words import axis, hover, shown_bits


def front_figure(sweep: SweepRecord, costs: Sequence[str] = ()) -> go.Figure:
    """Return error against each cost: all trials, the front and its line, the suggested pick, uniform policies, float and the limits.

    With three objectives the line is that of the two that a panel shows. `costs` are those to show; empty: all objectives but the error.
    """
    costs = costs or [name for name in sweep.objectives if name != "error"]
    members, uniform = front_members(sweep), best_uniform(sweep)
    on_front, pick = {trial.number for trial in members}, suggested(sweep, members)
    knee = [trial for trial in members if trial.number == knee_number(members, sweep.objectives)]
    figure = make_subplots(rows=1, cols=max(1, len(costs)), horizontal_spacing=0.1)
    for column, cost in enumerate(costs, start=1):
        ended = [trial for trial in sweep.trials if trial.result.ok and trial.repeated < 0 and cost in figures(trial)]
        others = [trial for trial in ended if trial.number not in on_front]
        searched = [trial for trial in others if trial.origin != BASELINE]
        some = drawn(searched)
        groups = (
            (thinned_title("trials", len(some), len(searched)), some, _marker(OTHERS, "circle", 6)),
            ("uniform", [trial for trial in others if trial.origin == BASELINE], _marker(BASELINES, "diamond", 10)),
            ("front", list(members), _marker(FRONT, "circle", 10)),
            ("uniform, on the front", [t for t in members if t.origin == BASELINE], _marker(FRONT, "diamond", 12)),
            ("best uniform", [uniform] if uniform else [], _marker(BASELINES, "diamond-open", 19, 2)),
            ("knee", knee, _marker(KNEE, "star", 14)),
            ("suggested", [pick] if pick else [], _marker(SUGGESTED, "circle-open", 19, 3)),
        )
        if members:
            line = step_line(sweep, members, cost, FRONT)
            figure.add_trace(line.update(name="line of the front", showlegend=False), row=1, col=column)
        for title, trials, marker in groups:
            if trials:
                figure.add_trace(_scatter(sweep, trials, cost, title, marker, legend=column == 1), row=1, col=column)
        figure.update_xaxes(title_text=axis(cost, sweep), row=1, col=column)
        figure.update_yaxes(title_text=axis("error", sweep) if column == 1 else "", row=1, col=column)
        add_references(figure, [sweep], cost, {"row": 1, "col": column})
    return figure.update_layout(_layout(f"{sweep.name}<br>{len(members)} policies on the front of {len(sweep.trials)} trials", 480))


def step_line(sweep: SweepRecord, members: Sequence[TrialRecord], cost: str, color: str, down: str = "error") -> go.Scatter:
    """Return the boundary of what a front dominates in the plane of two objectives: the least `down` within a budget of `cost`."""
    across, size = unit_of(cost).size, unit_of(down, sweep.metrics).size
    ordered = sorted((trial for trial in members if cost in figures(trial)), key=lambda trial: (figures(trial)[cost], figures(trial)[down]))
    x: list[float] = []
    y: list[float] = []
    for trial in ordered:
        if not y or figures(trial)[down] / size < y[-1]:
            x.append(figures(trial)[cost] / across)
            y.append(figures(trial)[down] / size)
    return go.Scatter(x=x, y=y, mode="lines", line={"shape": "hv", "width": 2, "color": color}, hoverinfo="skip")


def add_references(figure: go.Figure, sweeps: Sequence[SweepRecord], cost: str, where: Mapping[str, int]) -> None:
    """Draw the error of the float network and the limit on a cost, each with its value; sweeps that agree share a line."""
    info, size = sweeps[0].infos[0], unit_of("error", sweeps[0].metrics).size
    floats = {sweep.baseline[f"{info.name}_valid"] for sweep in sweeps if f"{info.name}_valid" in sweep.baseline}
    for value in sorted(floats)[:3]:
        text = f"float {shown(info.name, value, sweeps[0].infos)}"
        options = {"line_dash": "dot", "line_color": FLOAT, "annotation_text": text, "annotation_position": "top right"}
        figure.add_hline(y=info.error(value) / size, **options, **where)
    for limit in sorted({sweep.limits[cost] for sweep in sweeps if cost in sweep.limits})[:3]:
        options = {"line_dash": "dash", "line_color": LIMIT, "annotation_text": f"budget {shown(cost, limit)}"}
        figure.add_vline(x=limit / unit_of(cost).size, annotation_position="top left", **options, **where)


def _scatter(
    sweep: SweepRecord, trials: Sequence[TrialRecord], cost: str, title: str, marker: dict[str, object], *, legend: bool
) -> go.Scatter:
    """Return one group of trials over one cost."""
    across, down = unit_of(cost).size, unit_of("error", sweep.metrics).size
    ordered = sorted(trials, key=lambda trial: figures(trial)[cost])
    return go.Scatter(
        x=[figures(trial)[cost] / across for trial in ordered],
        y=[figures(trial)["error"] / down for trial in ordered],
        name=title,
        legendgroup=title,
        showlegend=legend,
        mode="markers",
        marker=marker,
        customdata=[trial.number for trial in ordered],
        text=[hover(sweep, trial) for trial in ordered],
        hovertemplate="%{text}<extra></extra>",
    )


def _marker(color: str, symbol: str, size: int, width: float = 1.0) -> dict[str, object]:
    line = {"width": 0 if size < 8 else width, "color": color if symbol.endswith("-open") else "white"}
    return {"color": color, "symbol": symbol, "size": size, "line": line}


def bits_figure(sweep: SweepRecord, slots: Sequence[str] = ("weight", "activation")) -> go.Figure:
    """Return a heat map of bits, layers down, policies of the front across from cheap to dear; weights and activations."""
    cost = next((name for name in sweep.objectives if name != "error"), "error")
    members = sorted(front_members(sweep), key=lambda trial: figures(trial)[cost])
    layers = list(members[0].policy) if members else []
    titles = [f"{slot}s" for slot in slots]
    figure = make_subplots(rows=1, cols=len(slots), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    for column, slot in enumerate(slots, start=1):
        specs = [[getattr(trial.policy[layer], slot) for trial in members] for layer in layers]
        heat = go.Heatmap(
            x=[trial.policy.id for trial in members],
            y=layers,
            z=[[shown_bits(spec) for spec in line] for line in specs],
            text=[[str(spec) for spec in line] for line in specs],
            hovertemplate="%{y}<br>policy %{x}<br>%{text}<extra></extra>",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
        )
        figure.add_trace(heat, row=1, col=column)
        figure.update_xaxes(type="category", tickangle=60, row=1, col=column)
    ticks = {"tickmode": "array", "tickvals": layers, "ticktext": [shortened(layer, 22) for layer in layers]}
    figure.update_yaxes(autorange="reversed", type="category", **(ticks if len(layers) <= 60 else {}))
    most = max((bits for heat in figure.data for line in heat.z for bits in line), default=8)
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 1, "cmax": max(8, most), "colorbar": {"title": "bits (16: more)"}})
    title = f"bits per layer over the front, by {title_of(cost)}"
    return figure.update_layout(_layout(title, max(320, 140 + 18 * len(layers))))


def hypervolume_curve(sweep: SweepRecord) -> tuple[list[int], list[float]]:
    """Return the count of ended trials and the hypervolume of the front then, at every change, and at the end."""
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    steps, volumes = [0], [0.0]
    told = sorted(sweep.trials, key=lambda trial: trial.tell_index)
    for count, (trial, point) in enumerate(zip(told, points(told, sweep.objectives), strict=True), start=1):
        feasible = trial.result.ok and trial.repeated < 0 and keeps_limits(trial, sweep.limits)
        if feasible and archive.add(trial.number, point):
            steps.append(count)
            volumes.append(archive.hypervolume)
    return [*steps, len(told)], [*volumes, volumes[-1]]


def hypervolume_figure(sweep: SweepRecord) -> go.Figure:
    """Return the hypervolume of the front over the trials that had ended."""
    steps, volumes = hypervolume_curve(sweep)
    figure = go.Figure(go.Scatter(x=steps, y=volumes, mode="lines", line={"shape": "hv", "color": FRONT}, name="hypervolume"))
    figure.update_xaxes(title_text="trials ended")
    reference = ", ".join(f"{title_of(metric)} {shown(metric, value)}" for metric, value in sweep.reference.items())
    figure.update_yaxes(title_text="share of the reference box", range=_progress(sweep, steps, volumes))
    return figure.update_layout(_layout(f"hypervolume so far (reference: {reference})", 340))


def _progress(sweep: SweepRecord, steps: Sequence[int], volumes: Sequence[float]) -> list[float] | None:
    """Return the range from the front of the uniform policies to the last one: what the search added; None where it added nothing."""
    uniform = sum(trial.origin == BASELINE for trial in sweep.trials)
    low = max((volume for step, volume in zip(steps, volumes, strict=True) if step <= uniform), default=0.0)
    span = volumes[-1] - low
    return [max(0.0, low - 0.15 * span), volumes[-1] + 0.15 * span] if span > 0 else None


def _layout(title: str, height: int) -> dict[str, object]:
    return {
        "title": {"text": title, "font": {"size": 15}},
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 60, "b": 60},
        "legend": {"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"},
    }
