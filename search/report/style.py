"""How figures are named and scaled for people: labels and units of metrics. Free of plotly."""

from collections.abc import Sequence

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "_s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "_j": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "_bytes": ((2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
}


def unit(metric: str, values: Sequence[float]) -> tuple[float, str]:
    """Return the factor and the name of the unit in which values of a metric read best: the largest that keeps their maximum above 1."""
    top = max((abs(value) for value in values), default=0.0)
    scales = next((scales for ending, scales in _UNITS.items() if metric.endswith(ending)), ((1.0, ""),))
    return next(((factor, name) for factor, name in scales if top >= factor), scales[-1])


def label(metric: str, unit_name: str = "") -> str:
    """Return the title of an axis."""
    words = metric.removesuffix("_s").removesuffix("_j").removesuffix("_bytes") if unit_name else metric
    return words.replace("_", " ") + (f" [{unit_name}]" if unit_name else "")


def show(metric: str, value: float | None) -> str:
    """Return one value with its unit, four digits."""
    if value is None:
        return "-"
    factor, name = unit(metric, (value,))
    return f"{value / factor:.4g} {name}".rstrip()
