"""The names and units of figures in tables: fixed, so that a column can be named in a program."""

_NAMES = {
    "weight_bytes": "weights",
    "float_weight_bytes": "weights float",
    "bits_weight_avg": "bits per weight",
    "bits_activation_avg": "bits per activation",
}
_UNITS = (("_bytes", "KiB", 1 / 1024), ("_s", "ms", 1e3), ("_j", "mJ", 1e3))


def _unit(metric: str) -> tuple[str, str, float]:
    """Return the name without its unit, the unit and the factor of a metric."""
    if metric.startswith(("accuracy", "error")):
        return metric, "%", 100.0
    for ending, unit, factor in _UNITS:
        if metric.endswith(ending):
            return metric.removesuffix(ending), unit, factor
    return metric, "", 1.0


def title(metric: str) -> str:
    """Return the title of a metric's column, with its unit.

    >>> title("latency_s"), title("accuracy_valid"), title("weight_bytes")
    ('latency [ms]', 'accuracy valid [%]', 'weights [KiB]')
    """
    name, unit, _ = _unit(metric)
    return _NAMES.get(metric, name.replace("_", " ")) + (f" [{unit}]" if unit else "")


def scaled(metric: str, value: float) -> float:
    """Return a metric's value in the unit of its title.

    >>> scaled("latency_s", 0.25)
    250.0
    """
    return value * _unit(metric)[2]
