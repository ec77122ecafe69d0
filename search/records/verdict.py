"""A comparison of sweeps in a sentence or two."""

from search.records.compare import Comparison
from search.records.units import scaled, shown, unit_of

_FIRST = ("weight_bytes", "latency_s", "energy_j")


def verdict(comparison: Comparison) -> str:
    """Return which front is ahead: how much of the others' it dominates, and the difference within a budget in the middle of the range.

    The front that is named is that of the largest hypervolume, which is a choice; where it does not lead within the budget it says so.
    """
    names, volumes = comparison.names, comparison.hypervolume
    lead = max(range(len(names)), key=lambda i: volumes[i])
    others = [i for i in range(len(names)) if i != lead]
    shares = ", ".join(f"{_share(comparison.coverage[lead][i])} of {names[i]}'s" for i in others)
    back = ", ".join(f"{names[i]}'s {_share(comparison.coverage[i][lead])}" for i in others)
    text = f"{names[lead]}'s front dominates or equals {shares}; of its own policies {back}"
    return f"{text}. {_within(comparison)}".strip()


def _within(comparison: Comparison) -> str:
    metric = next((name for name in (*_FIRST, *comparison.attained) if comparison.attained.get(name)), "")
    rows = [row for row in comparison.attained.get(metric, ()) if all(isinstance(row[name], float) for name in comparison.names)]
    if not rows:
        return ""
    row, info = rows[len(rows) // 2], comparison.sweeps[0].infos[0]
    ordered = sorted(comparison.names, key=lambda name: _value(row[name]), reverse=info.higher)
    ahead, second = ordered[:2]
    unit = unit_of(info.name, comparison.sweeps[0].infos)
    gap = abs(scaled(info.name, _value(row[ahead]) - _value(row[second]), comparison.sweeps[0].infos))
    budget = f"At {shown(metric, _value(row['budget']))}"
    words = {"%": "points of validation accuracy" if info.name == "accuracy" else f"points of {info.name}"}
    text = f"{gap:.2f} {words.get(unit.name, f'{unit.name} of {info.name}'.strip())}"
    return f"{budget} {ahead} is {text} better than {second}." if gap > 0 else f"{budget} {ahead} and {second} are equal."


def _value(value: object) -> float:
    return value if isinstance(value, float) else 0.0


def _share(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
