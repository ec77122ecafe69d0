"""The same pictures as PNG, drawn by matplotlib without a screen."""

import io

from matplotlib.figure import Figure

from search.records.front import figures, front_members, knee_number
from search.records.palette import BASELINES, FRONT, KNEE, OTHERS
from search.records.record import SweepRecord, TrialRecord
from search.records.units import label, unit_of
from search.report.thinning import drawn, thinned_title
from search.report.words import shown_bits


def front_png(sweep: SweepRecord) -> bytes:
    """Return error against each cost: all trials, front, knee, uniform baselines."""
    costs = [name for name in sweep.objectives if name != "error"] or ["error"]
    members = sorted(front_members(sweep), key=lambda trial: figures(trial)[costs[0]])
    knee = [trial for trial in members if trial.number == knee_number(members, sweep.objectives)]
    ended = [trial for trial in sweep.trials if trial.result.ok and trial.repeated < 0]
    canvas = Figure(figsize=(6.4 * len(costs), 4.4), layout="constrained")
    for axes, cost in zip(canvas.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):

        def at(trials: list[TrialRecord], cost: str = cost) -> tuple[list[float], ...]:
            return tuple([figures(trial)[metric] / unit_of(metric, sweep.metrics).size for trial in trials] for metric in (cost, "error"))

        some = drawn(ended)
        axes.scatter(*at(some), s=12, color=OTHERS, label=thinned_title("trials", len(some), len(ended)))
        axes.scatter(*at([t for t in ended if t.origin == "baseline"]), s=36, marker="D", color=BASELINES, label="uniform baselines")
        axes.scatter(*at(members), s=40, color=FRONT, label="front")
        axes.scatter(*at(knee), s=150, marker="*", color=KNEE, label="knee")
        axes.set(xlabel=label(cost), ylabel=f"validation {label('error', sweep.metrics)}")
        axes.grid(alpha=0.3)
    canvas.axes[0].legend()
    canvas.suptitle(sweep.name)
    return _bytes(canvas)


def bits_png(sweep: SweepRecord) -> bytes:
    """Return the heat map of weight bits: layers down, policies of the front across, from cheap to dear."""
    cost = next((name for name in sweep.objectives if name != "error"), "error")
    members = sorted(front_members(sweep), key=lambda trial: figures(trial)[cost])
    layers = list(members[0].policy) if members else []
    canvas = Figure(figsize=(max(5.0, 1.5 + 0.35 * len(members)), max(3.0, 1.5 + 0.25 * len(layers))), layout="constrained")
    axes = canvas.subplots()
    if members:
        bits = [[shown_bits(trial.policy[layer].weight) for trial in members] for layer in layers]
        most = max(8, *(max(line) for line in bits))
        canvas.colorbar(axes.imshow(bits, aspect="auto", vmin=1, vmax=most), label="bits per weight (16: more)")
    axes.set_yticks(range(len(layers)), layers)
    axes.set_xticks(range(len(members)), [trial.policy.id for trial in members], rotation=70, fontsize=7)
    axes.set_title(f"{sweep.name}: bits per layer over the front")
    return _bytes(canvas)


def _bytes(canvas: Figure) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
