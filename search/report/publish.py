"""The artifacts of a finished sweep on its page in MLflow: the front as page, pictures, table, and a description."""

from search.records.front import front_members, front_rows
from search.records.layers import LayerFigures
from search.records.record import SweepRecord
from search.records.summary import best_uniform, headline, suggested
from search.records.units import label, shown, title_of, unit_of
from search.report.page import sweep_page
from search.report.png import bits_png, front_png
from search.tracking import Tracker, names

_COSTS = ("weight_bytes", "bits_weight_avg")


def publish(tracker: Tracker, sweep: SweepRecord, layers: LayerFigures | None = None) -> None:
    """Put `front.html`, `front.png`, `bits.png`, `front_table.json`, `front.json` and the description on the sweep's parent run."""
    members = front_members(sweep)
    rows = front_rows(sweep, members)
    tracker.artifact(sweep_page(sweep, layers=layers), "front.html")
    tracker.artifact(front_png(sweep), "front.png")
    tracker.artifact(bits_png(sweep), "bits.png")
    tracker.artifact(rows, "front.json")
    if rows:
        tracker.table(rows, "front_table.json")
    tracker.measure(headline(sweep, members, best_uniform(sweep), len(sweep.trials)))
    chosen = suggested(sweep, members)
    tracker.tag({names.NOTE: note(sweep)} | ({names.SUGGESTED: chosen.policy.id} if chosen else {}))


def note(sweep: SweepRecord) -> str:
    """Return the description of a sweep in Markdown: what was run, the front, where the files are."""
    members = front_members(sweep)
    failed = sum(trial.result.failed for trial in sweep.trials)
    texts = [f"{title_of(metric)} <= {shown(metric, value)}" for metric, value in sweep.limits.items()]
    bounds = {info.name: ">=" if info.higher else "<=" for info in sweep.infos}
    texts += [f"{name} {bounds.get(name, '?')} {shown(name, value, sweep.infos)}" for name, value in sweep.quality_limits.items()]
    limits = ", ".join(texts) or "none"
    columns = (*(f"{info.name}_{split}" for info in sweep.infos for split in ("valid", "test")), *_COSTS)
    lines = [
        f"### Sweep {sweep.name}",
        f"{len(sweep.trials)} trials ({failed} failed), {len(members)} policies on the front. Limits: {limits}.",
        "",
        f"| policy | trial | {' | '.join(label(metric, sweep.metrics) for metric in columns)} | |",
        f"|{'---|' * (3 + len(columns))}",
    ]
    for row in front_rows(sweep, members)[:40]:
        values = [(metric, row[metric]) for metric in columns]
        texts = [unit_of(metric, sweep.metrics).number(value) if isinstance(value, float) else "" for metric, value in values]
        lines.append(f"| {row['id']} | {row['trial']} | {' | '.join(texts)} | {'knee' if row['knee'] else ''} |")
    lines += ["", f"Artifacts: `front.html` (interactive), `front.png`, `bits.png`, `front_table.json`. `bitfront front {sweep.name}`"]
    return "\n".join(lines)[:7500]
