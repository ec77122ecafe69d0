"""The one table of units: how every command, page and picture shows a metric. Records and JSON keep SI units and fractions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.tasks.metrics.info import MetricInfo


@dataclass(frozen=True)
class Unit:
    """The form in which a metric is shown.

    Attributes:
        name: of the unit; "" where there is none.
        size: of one unit, in what the record holds: SI units, fractions for shares.
        digits: significant ones, or, where `decimals`, digits behind the point.
    """

    name: str = ""
    size: float = 1.0
    digits: int = 4
    decimals: bool = False

    def number(self, value: float) -> str:
        """Return a value in this unit, without the unit's name."""
        scaled = value / self.size
        if self.decimals or abs(scaled) >= 10.0**self.digits:
            return f"{scaled:.{self.digits if self.decimals else 0}f}"
        return f"{scaled:.{self.digits}g}"


PLAIN = Unit()
TIME, ENERGY, SIZE, SHARE = Unit("ms", 1e-3), Unit("mJ", 1e-3), Unit("KiB", 1024.0), Unit("%", 0.01, 2, decimals=True)
_BY_BEGINNING = {"accuracy": SHARE, "error": SHARE, "top1_agreement": SHARE}
_OF_METRICS = {"psnr": Unit("dB", 1.0, 2, decimals=True), "kld": Unit("nats"), "flips": SHARE, "f1": SHARE, "iou": SHARE, "map": SHARE}
_PLACES = ("", "_valid", "_test", "_float_valid", "_float_test")
_BY_ENDING = {"_s": TIME, "_j": ENERGY, "_bytes": SIZE}
UNITS: Mapping[str, Unit] = {
    "macs": Unit("M", 1e6),
    "bit_ops": Unit("G", 1e9),
    "cache_bytes": Unit("MiB", 2.0**20),  # as `cache_mib` is set
    "seconds": Unit("s"),
    "kv_bytes_per_token": Unit("B"),
    "float_kv_bytes_per_token": Unit("B"),
    "bits_weight_avg": Unit("", 1.0, 3, decimals=True),
    "bits_activation_avg": Unit("", 1.0, 3, decimals=True),
}
_TITLES = {"macs": "MACs", "bits_weight_avg": "bits per weight", "bits_activation_avg": "bits per activation"}
_TITLES |= {"kv_bytes_per_token": "KV cache per token"}


def info_of(metric: str, infos: Sequence[MetricInfo]) -> MetricInfo | None:
    """Return the metric of a task whose figure `metric` is, on some split; None for costs and counts."""
    return next((info for info in infos if metric in {info.name + place for place in _PLACES}), None)


def unit_of(metric: str, infos: Sequence[MetricInfo] = ()) -> Unit:
    """Return the unit of a metric: as the task says, its entry in the table, or that of its ending (`_s`, `_j`, `_bytes`) or beginning."""
    info = info_of(metric, infos) or (infos[0] if metric == "error" and infos else None)
    if info is not None:
        return SHARE if info.unit == "%" else PLAIN if metric == "error" else Unit(info.unit)
    by_ending = (unit for ending, unit in _BY_ENDING.items() if metric.endswith(ending))
    by_beginning = (unit for beginning, unit in _BY_BEGINNING.items() if metric.startswith(beginning))
    of_metric = _OF_METRICS.get(metric.partition("_")[0])
    return UNITS.get(metric) or next(by_ending, None) or next(by_beginning, None) or of_metric or PLAIN


def title_of(metric: str, infos: Sequence[MetricInfo] = ()) -> str:
    """Return the name of a metric for people, without its unit; of a task's metrics with the better direction as an arrow."""
    if metric == "error" and infos:
        return f"error = {infos[0].formula}"
    info = info_of(metric, infos)
    ending = next((ending for ending in _BY_ENDING if metric.endswith(ending)), "") if info is None else ""
    title = _TITLES.get(metric, metric.removesuffix(ending).replace("_", " "))
    return title if info is None else f"{title} {info.arrow}"


def label(metric: str, infos: Sequence[MetricInfo] = ()) -> str:
    """Return the title of an axis or a column, with the unit in brackets."""
    name = unit_of(metric, infos).name
    return title_of(metric, infos) + (f" [{name}]" if name else "")


def scaled(metric: str, value: float, infos: Sequence[MetricInfo] = ()) -> float:
    """Return a value in the metric's unit."""
    return value / unit_of(metric, infos).size


def shown(metric: str, value: float | None, infos: Sequence[MetricInfo] = ()) -> str:
    """Return one value with its unit; "-" where it is not known."""
    if value is None:
        return "-"
    unit = unit_of(metric, infos)
    return f"{unit.number(value)} {unit.name}".rstrip()


def cells(metric: str, values: Sequence[float | None], infos: Sequence[MetricInfo] = ()) -> list[str]:
    """Return a column of values in the metric's unit, with one number of decimals: 3, more where the largest value needs them."""
    unit = unit_of(metric, infos)
    top = max((abs(value) / unit.size for value in values if value is not None and math.isfinite(value)), default=0.0)
    decimals = unit.digits if unit.decimals else max(3, 3 - math.floor(math.log10(top)) if top else 0)
    return ["-" if value is None else f"{value / unit.size:.{decimals}f}" for value in values]
