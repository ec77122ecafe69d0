"""A policy in words: what a point of a figure is, for people."""

from collections import Counter
from collections.abc import Sequence

from quant_core.spec.policy import NONE, Policy
from quant_core.spec.quant_spec import QuantSpec
from search.records.front import figures, keeps_limits
from search.records.record import SweepRecord, TrialRecord
from search.records.summary import standard_error
from search.records.units import label, shown, title_of, unit_of

LINE = 44  # characters of a line of a hover text, for narrow screens
SPECS = 4  # that are named; the rest is counted
_COSTS = {"weight_bytes": "size", "latency_s": "latency", "energy_j": "energy"}


def in_words(policy: Policy) -> str:
    """Return the specs of a policy, the most frequent first: `weights int4:channel:mse in 6 layers, int8:channel:mse in 2; ...`."""
    weights = [choice.weight for choice in policy.values()]
    activations = [choice.activation for choice in policy.values()]
    return f"weights {_counted(weights)}; activations {_counted(activations)}"


def strip(policy: Policy) -> str:
    """Return the bits of every weight in network order, repeats counted: `8 4x6 3 8`."""
    parts: list[tuple[int, int]] = []
    for choice in policy.values():
        bits = shown_bits(choice.weight)
        parts = [*parts[:-1], (bits, parts[-1][1] + 1)] if parts and parts[-1][0] == bits else [*parts, (bits, 1)]
    texts = [str(bits) if count == 1 else f"{bits}x{count}" for bits, count in parts]
    return " ".join(texts if len(texts) <= 24 else [*texts[:23], "..."])


def shown_bits(spec: QuantSpec) -> int:
    """Return the bits that a page shows for a spec: its code bits, 16 for 16 and more."""
    return min(spec.bits, 16)


def judged(sweep: SweepRecord, trial: TrialRecord) -> list[tuple[str, str]]:
    """Return the metrics and costs of a policy as names and texts, beside the float network's."""
    rows, values = [], figures(trial)
    for info in sweep.infos:
        valid, test = values.get(info.name), trial.test.get(info.name)
        for split, value in (("validation", valid), ("test", test)):
            reached = sweep.baseline.get(f"{info.name}_{'valid' if split == 'validation' else 'test'}")
            if value is not None:
                error = standard_error(sweep, info.name, split, value)
                spread = f" ± {shown(info.name, error, sweep.infos)}" if error is not None else ""
                rows.append(
                    (f"{info.name}, {split}", shown(info.name, value, sweep.infos) + spread + _against(sweep, info.name, value, reached))
                )
    for cost in dict.fromkeys((*_COSTS, *(name for name in sweep.objectives if name not in ("error", "loss")))):
        if cost in values:
            reached = sweep.baseline.get(cost)
            times = f" ({reached / values[cost]:.1f} x smaller than float)" if reached and values[cost] else ""
            rows.append((_COSTS.get(cost, title_of(cost)), shown(cost, values[cost]) + times))
    return rows


HOVERED = 46
"""Characters of a line that a telephone shows whole."""


def hover(sweep: SweepRecord, trial: TrialRecord) -> str:
    """Return the text that a point shows, in plotly's HTML."""
    lines = [f"<b>trial {trial.number}</b>, by {trial.origin}, {trial.result.fidelity} ({trial.policy.id})"]
    for name, text in judged(sweep, trial):
        line = f"{name}: {text}"
        lines += [line] if len(line) <= HOVERED else line.replace(" (", "<br>(").split("<br>")
    lines += [f"network: {trial.policy.transform}"] if trial.policy.transform != NONE else []
    lines += [] if trial.policy.kv.is_float else [f"KV cache: {trial.policy.kv}"]
    lines += _wrapped(in_words(trial.policy)) + _wrapped(f"bits per layer: {strip(trial.policy)}")
    return "<br>".join(lines + ([] if keeps_limits(trial, sweep.limits) else ["over the limit"]))


def axis(metric: str, sweep: SweepRecord) -> str:
    """Return the title of an axis: "size [KiB]", "validation error [%]"."""
    text = label(metric, sweep.metrics) if metric == "error" else label(metric)
    return f"validation {text}" if metric == "error" else text.replace(title_of(metric), _COSTS.get(metric, title_of(metric)), 1)


def _against(sweep: SweepRecord, metric: str, value: float, reached: float | None) -> str:
    """Return how far a figure is from the float network's: in points where the unit is per cent."""
    if reached is None:
        return ""
    unit = unit_of(metric, sweep.infos)
    name = "points" if unit.name == "%" else unit.name
    return f" ({(value - reached) / unit.size:+.2f} {name} to float)".replace("  ", " ")


def _counted(specs: Sequence[QuantSpec]) -> str:
    counts = Counter(map(str, specs)).most_common()
    if len(counts) == 1:
        return counts[0][0]
    texts = [f"{spec} in {count}" for spec, count in counts[:SPECS]]
    texts[0] += " layers" if counts[0][1] > 1 else " layer"
    rest = len(counts) - SPECS
    return ", ".join(texts + ([f"{rest} more"] if rest > 0 else []))


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < LINE else [*lines, word]
    return lines
