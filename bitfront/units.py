"""The titles of columns: the one table of units, and names that read well in a program: `table["weights [KiB]"]`."""

from search.records.units import title_of, unit_of

_NAMES = {
    "weight_bytes": "weights",
    "float_weight_bytes": "weights float",
    "bits_weight_avg": "bits per weight",
    "bits_activation_avg": "bits per activation",
}


def title(metric: str) -> str:
    """Return the title of a metric's column, with its unit.

    >>> title("latency_s"), title("accuracy_valid"), title("weight_bytes")
    ('latency [ms]', 'accuracy valid [%]', 'weights [KiB]')
    """
    unit = unit_of(metric).name
    return _NAMES.get(metric, title_of(metric)) + (f" [{unit}]" if unit else "")


def scaled(metric: str, value: float) -> float:
    """Return a metric's value in the unit of its title.

    >>> scaled("weight_bytes", 2048)
    2.0
    """
    return value / unit_of(metric).size
