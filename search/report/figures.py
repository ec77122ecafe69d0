"""Plotly figures of one sweep: its front, the bits per layer over the front, the hypervolume over the trials."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from quant_core.spec.quant_spec import QuantSpec
from search.problem.pareto import Archive
from search.records.front import figures, front_members, keeps_limits, knee_number, points
from search.records.palette import BASELINES, FRONT, KNEE, LIMIT, OTHERS
from search.records.record import SweepRecord, TrialRecord
from search.records.units import label, shown, title_of, unit_of


def front_figure(sweep: SweepRecord) -> go.Figure:
    """Return error against each cost: all trials, the front, its knee, the uniform baselines and the limits."""
    costs = [name for name in sweep.objectives if name != "error"]
    members = front_members(sweep)
    figure = make_subplots(rows=1, cols=max(1, len(costs)), horizontal_spacing=0.08)
    for column, cost in enumerate(costs, start=1):
        ended = [trial for trial in sweep.trials if trial.result.ok and trial.repeated < 0 and cost in figures(trial)]
        on_front = {trial.number for trial in members}
        others = [trial for trial in ended if trial.number not in on_front]
        groups = (
            ("trials", [trial for trial in others if trial.origin != "baseline"], {"color": OTHERS, "size": 6}, "markers"),
            ("uniform baselines", [trial for trial in others if trial.origin == "baseline"], _marker(BASELINES, "diamond", 9), "markers"),
            ("front", list(members), _marker(FRONT, "circle", 9), "lines+markers" if len(costs) == 1 else "markers"),
            ("uniform, on the front", [t for t in members if t.origin == "baseline"], _marker(FRONT, "diamond", 12), "markers"),
            ("knee", [t for t in members if t.number == knee_number(members, sweep.objectives)], _marker(KNEE, "star", 15), "markers"),
        )
        for title, trials, marker, mode in groups:
            if trials:
                figure.add_trace(_scatter(sweep, trials, cost, title, marker, mode, legend=column == 1), row=1, col=column)
        figure.update_xaxes(title_text=label(cost), row=1, col=column)
        figure.update_yaxes(title_text=f"validation {label('error', sweep.metrics)}" if column == 1 else "", row=1, col=column)
        if cost in sweep.limits:
            limit = sweep.limits[cost] / unit_of(cost).size
            figure.add_vline(x=limit, line_dash="dash", line_color=LIMIT, row=1, col=column, annotation_text="limit")
    return figure.update_layout(_layout(f"{sweep.name}: {len(members)} policies on the front of {len(sweep.trials)} trials", 480))


def _scatter(
    sweep: SweepRecord,
    trials: Sequence[TrialRecord],
    cost: str,
    title: str,
    marker: dict[str, object],
    mode: str,
    *,
    legend: bool,
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
        mode=mode,
        marker=marker,
        line={"shape": "hv", "width": 1.5, "color": FRONT},
        text=[_hover(sweep, trial) for trial in ordered],
        hovertemplate="%{text}<extra></extra>",
    )


def _marker(color: str, symbol: str, size: int) -> dict[str, object]:
    return {"color": color, "symbol": symbol, "size": size, "line": {"width": 1, "color": "white"}}


def _hover(sweep: SweepRecord, trial: TrialRecord) -> str:
    lines = [f"<b>{trial.policy.id}</b> (trial {trial.number}, {trial.origin}, {trial.result.fidelity})"]
    infos = sweep.metrics
    lines += [f"{title_of(metric, infos)}: {shown(metric, value, infos)}" for metric, value in figures(trial).items()]
    return "<br>".join(lines + ([] if keeps_limits(trial, sweep.limits) else ["over the limit"]))


def bits_figure(sweep: SweepRecord) -> go.Figure:
    """Return a heat map of bits, layers down, policies of the front across from cheap to dear; weights and activations."""
    cost = next((name for name in sweep.objectives if name != "error"), "error")
    members = sorted(front_members(sweep), key=lambda trial: figures(trial)[cost])
    layers = list(members[0].policy) if members else []
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=("weights", "activations"), horizontal_spacing=0.03)
    for column, slot in enumerate(("weight", "activation"), start=1):
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
    figure.update_yaxes(autorange="reversed", type="category")
    most = max((bits for heat in figure.data for line in heat.z for bits in line), default=8)
    figure.update_layout(coloraxis={"colorscale": "Viridis", "cmin": 1, "cmax": max(8, most), "colorbar": {"title": "bits (16: more)"}})
    title = f"bits per layer over the front, by {title_of(cost)}"
    return figure.update_layout(_layout(title, max(320, 140 + 18 * len(layers))))


def shown_bits(spec: QuantSpec) -> int:
    """Return the bits that a heat map shows for a spec: its code bits, 16 for 16 and more."""
    return min(spec.bits, 16)


def hypervolume_curve(sweep: SweepRecord) -> tuple[list[int], list[float]]:
    """Return the count of ended trials and the hypervolume of the front then, at every change, and at the end."""
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    steps, volumes = [0], [0.0]
    told = sorted(sweep.trials, key=lambda trial: trial.tell_index)
    for count, trial in enumerate(told, start=1):
        feasible = trial.result.ok and trial.repeated < 0 and keeps_limits(trial, sweep.limits)
        if feasible and archive.add(trial.number, points([trial], sweep.objectives)[0].tolist()):
            steps.append(count)
            volumes.append(archive.hypervolume)
    return [*steps, len(told)], [*volumes, volumes[-1]]


def hypervolume_figure(sweep: SweepRecord) -> go.Figure:
    """Return the hypervolume of the front over the trials that had ended."""
    steps, volumes = hypervolume_curve(sweep)
    figure = go.Figure(go.Scatter(x=steps, y=volumes, mode="lines", line={"shape": "hv", "color": FRONT}, name="hypervolume"))
    figure.update_xaxes(title_text="trials ended")
    reference = ", ".join(f"{title_of(metric)} {shown(metric, value)}" for metric, value in sweep.reference.items())
    figure.update_yaxes(title_text="share of the reference box")
    return figure.update_layout(_layout(f"hypervolume so far (reference: {reference})", 340))


def _layout(title: str, height: int) -> dict[str, object]:
    return {
        "title": {"text": title, "font": {"size": 15}},
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 70, "r": 30, "t": 60, "b": 90},
        "legend": {"orientation": "h", "y": -0.2, "x": 0, "yanchor": "top"},
    }
