"""Mean average precision of detectors, through torchmetrics."""

from typing import Any, cast

from quant_core.util.errors import InputError
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.own import number
from search.tasks.metrics.state import Judged


class _MeanAveragePrecision:
    """torchmetrics' state; `whole` outputs are lists of dicts with boxes, scores and labels, targets with boxes and labels."""

    def __init__(self) -> None:
        self._accumulator = _torchmetrics()

    def update(self, batch: Judged) -> None:
        if not isinstance(batch.whole, list) or not isinstance(batch.targets, list):
            raise InputError(
                f"metric 'map' needs a list of dicts (boxes, scores, labels) for outputs and targets; {batch.place} has "
                f"{type(batch.whole).__name__} and {type(batch.targets).__name__}. Return such lists, or give a function of your own."
            )
        self._accumulator.update(batch.whole, batch.targets)

    def values(self) -> tuple[float]:
        return (number(self._accumulator.compute()["map"], "map"),)


def _torchmetrics() -> Any:
    try:
        from torchmetrics.detection import MeanAveragePrecision

        return cast(Any, MeanAveragePrecision)()
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"metric 'map' needs torchmetrics with pycocotools and torchvision ({reason}); install them.") from None


def mean_average_precision() -> Metric:
    """Return the mean average precision over IoU thresholds from 0.5 to 0.95, as COCO defines it."""
    return Metric((MetricInfo("map", True, "%", 1.0, 1.0),), _MeanAveragePrecision)
