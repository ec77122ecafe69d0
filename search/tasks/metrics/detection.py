"""Mean average precision of detectors, as COCO defines it, through pycocotools."""

import contextlib
import io
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quant_core.util.errors import InputError
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.state import Judged

_OUTPUT, _TARGET = ("boxes", "scores", "labels"), ("boxes", "labels")


class _MeanAveragePrecision:
    """Boxes of all images; `whole` outputs are lists of dicts with boxes, scores and labels, targets with boxes and labels."""

    def __init__(self) -> None:
        self._coco, self._evaluator = _pycocotools()
        self._images = 0
        self._targets: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []

    def update(self, batch: Judged) -> None:
        outputs, targets = batch.whole, batch.targets
        if not isinstance(outputs, list) or not isinstance(targets, list):
            raise InputError(
                f"metric 'map' needs a list of dicts (boxes, scores, labels) for outputs and targets; {batch.place} has "
                f"{type(outputs).__name__} and {type(targets).__name__}. Return such lists, or give a function of your own."
            )
        if len(outputs) != len(targets):
            raise InputError(
                f"metric 'map': {batch.place} has outputs of {len(outputs)} images and targets of {len(targets)}; give one each."
            )
        for output, target in zip(outputs, targets, strict=True):
            self._images += 1
            self._detections += _boxes(output, _OUTPUT, self._images, f"an output of {batch.place}")
            for box in _boxes(target, _TARGET, self._images, f"a target of {batch.place}"):
                self._targets.append({**box, "id": len(self._targets) + 1, "iscrowd": 0})

    def values(self) -> tuple[float]:
        if not self._targets:
            return (math.nan,)
        if not self._detections:
            return (0.0,)
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._coco()
            categories = sorted({box["category_id"] for box in (*self._targets, *self._detections)})
            truth.dataset = {
                "info": {},
                "images": [{"id": number + 1} for number in range(self._images)],
                "annotations": self._targets,
                "categories": [{"id": category} for category in categories],
            }
            truth.createIndex()
            evaluator = self._evaluator(truth, truth.loadRes(self._detections), "bbox")
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        return (float(evaluator.stats[0]),)


def _boxes(part: Any, keys: tuple[str, ...], image: int, place: str) -> list[dict[str, Any]]:
    """Return the boxes of one image in COCO's form: x, y, width, height.

    Raises:
        InputError: a part is missing, or of another shape.
    """
    parts: Mapping[str, Any] = part if isinstance(part, Mapping) else {}
    tensors = [parts[key] for key in keys if isinstance(parts.get(key), Tensor)]
    if len(tensors) < len(keys):
        raise InputError(f"metric 'map': {place} is no dict of tensors with {', '.join(keys)}; give them for every image.")
    corners = tensors[0].detach().double().cpu()
    if corners.numel() and (corners.dim() != 2 or corners.shape[1] != 4):
        raise InputError(f"metric 'map': {place} has boxes of shape {tuple(corners.shape)}; corners (x1, y1, x2, y2) are needed, [n, 4].")
    columns = {key: tensor.detach().cpu().flatten().tolist() for key, tensor in zip(keys[1:], tensors[1:], strict=True)}
    if any(len(column) != len(corners) for column in columns.values()):
        lengths = ", ".join(f"{len(column)} {key}" for key, column in columns.items())
        raise InputError(f"metric 'map': {place} has {len(corners)} boxes and {lengths}; one for every box is needed.")
    made = []
    for number, (left, top, right, bottom) in enumerate(corners.reshape(-1, 4).tolist()):
        width, height = right - left, bottom - top
        box = {"image_id": image, "category_id": int(columns["labels"][number]), "bbox": [left, top, width, height], "area": width * height}
        made.append({**box, "score": columns["scores"][number]} if "scores" in columns else box)
    return made


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"metric 'map' needs pycocotools ({reason}): pip install 'bitfront[detection]'.") from None
    return COCO, COCOeval


def mean_average_precision() -> Metric:
    """Return the mean average precision over IoU thresholds from 0.5 to 0.95 and all classes, as COCO defines it."""
    return Metric((MetricInfo("map", True, "%", 1.0, 1.0),), _MeanAveragePrecision, of_whole=True)
