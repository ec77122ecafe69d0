"""The tables, the JSON and the plot of the searcher benchmark."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.searchers_gates import Row, gates

COMMON_REPAIR = "haq"
"""The repair of the table in which all searchers have the same."""
TITLES = {
    "P1": "P1: HAWQ-V3 ResNet-18, 19 layers, int4/int8, additive loss, nine budgets",
    "P2": "P2: HAWQ-V3 ResNet-50, 52 layers, int4/int8, additive loss, nine budgets",
    "P4": "P4: 16,384 measured policies of a digits CNN, five budgets (the sensitivities are one-pass Fisher scores, not the truth)",
    "P5": "P5: HAQ's 53 x 8 x 8 latency table, 106 dimensions, SYNTHETIC additive sensitivity (weights x 4^-w + activations x 4^-a)",
    "P6": "P6: MADE-UP: 20 to 52 layers, 10 to 25 pairs of weight and activation bits, two limits, noisy sensitivities",
}
INTRODUCTION = """# Searchers on problems with known answers

`python -m benchmarks.searchers` writes this page. Its options are `--seeds`, `--families` and `--evaluations`. Every run is a line of
`benchmarks/results/benchmarks.jsonl`. A run that is there is not made again.

- Regret is (f - f*) / (f_uniform - f*). The optimum has regret 0, the best uniform policy regret 1. Regret may exceed 1: the uniform
  policies are told to the searcher but are not counted as its own proposals.
- A cell is the median [quartiles] over budgets and seeds.
- "solved" is the share of runs that reach the optimum.
- "to 1 %" is the median number of evaluations to a regret of 0.01; "-" says that less than half of the runs reach it.
- "ms" is the searcher's processor time per evaluation (median of the first seed's runs), on a machine shared with other work.

A run that has the optimum is stopped; the first seed's run makes at least 50 evaluations. Sensitivities belong to the problem and are
not counted as evaluations. A searcher "alone" is not told them; `haq+ alone` has no second-order model either.
"""

AGENTS = """The second page of [benchmarks.md](benchmarks.md), which says what the columns are.
"""


def write(rows: Sequence[Row], budgets: Sequence[int], out: Path | None, results: Path | None) -> str:
    """Return the tables as markdown; with `out` and `results`, also write benchmarks.md and .svg there, and benchmarks.json here."""
    parts = [INTRODUCTION, _extent(rows), "\n".join(["## Gates", "", *gates(rows), ""])]
    summary: dict[str, Any] = {}
    split = len(parts)
    for family, title in TITLES.items():
        mine = [row for row in rows if row["family"] == family]
        default = [row for row in mine if "," not in row["label"]]
        haq = [row for row in mine if row["label"] == "haq"] if family not in ("P5", "P6") else []
        common: list[Row] = [{**row, "label": f"haq, repair {COMMON_REPAIR}"} for row in haq]
        common += [row for row in mine if "," in row["label"]]
        split = len(parts) if family == "P6" else split
        tables = ((f"## {title}\n\nEach with its own repair.", default), ("All with the same repair, the paper's.", common))
        for heading, entered in tables:
            if entered:
                lines, figures = _table(entered, budgets)
                parts.append("\n".join([heading, "", *lines, ""]))
                summary.setdefault(family, {}).update(figures)
    fronts = [row for row in rows if row["family"] == "front"]
    if fronts:
        parts.append(
            "\n".join(["## Fronts of P4: hypervolume of (cross-entropy, size) over the best possible", "", *_fronts(fronts, budgets), ""])
        )
    text = "\n".join(parts)
    if out is not None and results is not None:
        _save(out / "benchmarks.md", "\n".join(parts[:split]))
        _save(out / "benchmarks-agents.md", "\n".join(["# Searchers on made-up networks, and fronts\n", AGENTS, *parts[split:]]))
        _save(results / "benchmarks.json", json.dumps(summary, indent=1) + "\n")
        _save(out / "benchmarks.svg", _plot(summary, budgets))
    return text


def _table(rows: Sequence[Row], budgets: Sequence[int]) -> tuple[list[str], dict[str, Any]]:
    lines = [
        "| searcher | runs | " + " | ".join(f"regret at {n}" for n in budgets) + " | solved | to 1 % | ms |",
        "|---|---|" + "---|" * (len(budgets) + 3),
    ]
    figures = {}
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        cells, medians = [], {}
        for n in map(str, budgets):
            regrets = [row["regret"][n] for row in mine if n in row["regret"]]
            cells.append(_quartiles(regrets))
            if regrets:
                medians[n] = float(np.median(regrets))
        solved = float(np.mean([row["solved_at"] is not None for row in mine]))
        near = float(np.median([np.inf if row["near_at"] is None else row["near_at"] for row in mine]))
        spent = float(np.median([row["ms_per_evaluation"] for row in mine if row["seed"] == 0]))
        near_text = f"{near:.0f}" if np.isfinite(near) else "-"
        lines.append(f"| {label} | {len(mine)} | " + " | ".join(cells) + f" | {solved:.0%} | {near_text} | {spent:.1f} |")
        figures[label] = {"runs": len(mine), "median_regret": medians, "solved": solved, "ms_per_evaluation": spent}
    return lines, figures


def _extent(rows: Sequence[Row]) -> str:
    """Say what was run."""
    told = []
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        least, most = _seeds([row for row in mine if row["label"] == "haq"]), _seeds(mine)
        seeds = f"{most} seeds" if least == most else f"{most} seeds, the agents {least}"
        cases = len({row["case"] for row in mine})
        told.append(f"{family}: {cases} budgets, {seeds}, up to {max(row['evaluations'] for row in mine)} evaluations")
    return f"What was run ({len(rows)} runs): {'; '.join(told)}.\n"


def _seeds(rows: Sequence[Row]) -> int:
    return len({row["seed"] for row in rows})


def _quartiles(regrets: Sequence[float]) -> str:
    if not regrets or not np.isfinite(regrets).all():
        return "none found" if regrets else "-"
    low, middle, high = np.percentile(regrets, [25, 50, 75]).round(4) + 0.0
    return f"{middle:.4f} [{low:.4f}, {high:.4f}]"


def _fronts(rows: Sequence[Row], budgets: Sequence[int]) -> list[str]:
    lines = ["| searcher | runs | " + " | ".join(f"at {n}" for n in budgets) + " |", "|---|---|" + "---|" * len(budgets)]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row["hypervolume"] for row in rows if row["label"] == label]
        cells = [f"{np.median([volumes[str(n)] for volumes in mine if str(n) in volumes]):.4f}" for n in budgets]
        lines.append(f"| {label} | {len(mine)} | " + " | ".join(cells) + " |")
    return lines


def _plot(summary: Mapping[str, Any], budgets: Sequence[int]) -> str:
    """Return an SVG: median regret (log scale, 1e-4 and below on the floor) over evaluations, one panel per problem."""
    wide, high, colours = 260, 220, ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000")
    names = ("random", "tpe", "nsga2", "ilp", "pairwise", "haq", "haq+", "auto")
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{(wide + 40) * len(summary) + 40}" height="{high + 90}" font-size="11">']
    for panel, (family, figures) in enumerate(summary.items()):
        left = 40 + panel * (wide + 40)
        out.append(f'<text x="{left}" y="14">{family}: median regret</text>')
        out.append(f'<rect x="{left}" y="20" width="{wide}" height="{high}" fill="none" stroke="#999"/>')
        for power in range(5):
            y = 20 + high * power / 5
            out.append(f'<text x="{left - 32}" y="{y + 10:.0f}">1e-{power}</text>')
            out.append(f'<line x1="{left}" x2="{left + wide}" y1="{y}" y2="{y}" stroke="#eee"/>')
        for name, colour in zip(names, colours, strict=True):
            medians = figures.get(name, {}).get("median_regret", {})
            shown = [(int(n), value) for n, value in medians.items() if np.isfinite(value)]
            points = " ".join(
                f"{left + wide * n / max(budgets):.1f},{20 + high * min(-np.log10(min(max(value, 1e-5), 1.0)), 5) / 5:.1f}"
                for n, value in shown
            )
            out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
        out.append(f'<text x="{40 + 90 * place}" y="{high + 60}" fill="{colour}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])


def _save(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
