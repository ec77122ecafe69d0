"""Mean average precision, where pycocotools is installed: cases whose figure follows by hand."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitfront
from quant_core.util.errors import InputError
from search.exporters import onnx_qdq, safetensors
from search.exporters.flow import bundle_of
from search.tasks.metrics.detection import mean_average_precision
from search.tasks.metrics.state import Judged

BOX = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


@pytest.fixture
def installed() -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is an extra: pip install 'bitfront[detection]'")


def boxes(corners: Tensor, *labels: int, scores: tuple[float, ...] | None = None) -> dict[str, Tensor]:
    made = {"boxes": corners, "labels": torch.tensor(labels, dtype=torch.long)}
    return made if scores is None else {**made, "scores": torch.tensor(scores)}


def precision(*images: tuple[dict[str, Tensor], dict[str, Tensor]]) -> float:
    """Return the figure of (output, target) of every image, in two batches."""
    state = mean_average_precision().start()
    for part in (images[:1], images[1:]):
        if part:
            state.update(Judged(BOX, [target for _, target in part], whole=[output for output, _ in part]))
    return state.values()[0]


@pytest.mark.usefixtures("installed")
def test_boxes_that_are_right_have_a_precision_of_1() -> None:
    assert precision((boxes(BOX, 1, scores=(0.9,)), boxes(BOX, 1))) == pytest.approx(1.0)


@pytest.mark.usefixtures("installed")
def test_a_box_counts_at_the_thresholds_that_its_overlap_passes() -> None:
    """Overlap 7.2 x 10 / (10 x 10) = 0.72: right at 0.5, 0.55, 0.6, 0.65 and 0.7 of ten thresholds."""
    part = torch.tensor([[0.0, 0.0, 7.2, 10.0]])
    assert precision((boxes(part, 1, scores=(0.9,)), boxes(BOX, 1))) == pytest.approx(0.5)


@pytest.mark.usefixtures("installed")
def test_a_wrong_box_above_the_right_one_halves_the_precision() -> None:
    two = torch.cat([BOX + 50, BOX])
    assert precision((boxes(two, 1, 1, scores=(0.9, 0.8)), boxes(BOX, 1))) == pytest.approx(0.5)


@pytest.mark.usefixtures("installed")
def test_classes_are_averaged_over_images() -> None:
    """Class 1 is right in the first image; class 2 is missed in the second."""
    nothing = boxes(torch.zeros(0, 4), scores=())
    assert precision((boxes(BOX, 1, scores=(0.9,)), boxes(BOX, 1)), (nothing, boxes(BOX, 2))) == pytest.approx(0.5)
    assert precision((nothing, boxes(BOX, 2))) == 0.0


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"boxes": BOX}, r"an output of .* is no dict of tensors with boxes, scores, labels"),
        (boxes(BOX[:, :3], 1, scores=(0.9,)), r"boxes of shape \(1, 3\); corners"),
        (boxes(BOX, 1, 2, scores=(0.9,)), r"1 boxes and 1 scores, 2 labels; one for every box"),
    ],
)
def test_wrong_parts_are_refused(output: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        precision((output, boxes(BOX, 1)))


@pytest.mark.usefixtures("installed")
def test_other_lists_are_refused() -> None:
    state = mean_average_precision().start()
    with pytest.raises(InputError, match="outputs of 1 images and targets of 2"):
        state.update(Judged(BOX, [boxes(BOX, 1)] * 2, whole=[boxes(BOX, 1, scores=(0.9,))]))
    with pytest.raises(InputError, match="needs a list of dicts"):
        state.update(Judged(BOX, BOX, whole=BOX))


class Detector(nn.Module):
    """One box per image, whose corners a layer computes; outputs as detectors of torchvision give them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        low, size = self.layer(x).view(-1, 2, 2).unbind(dim=1)
        corners = torch.cat([low, low + size.abs() + 1], dim=1)
        return [boxes(row[None], 1, scores=(0.5,)) for row in corners]


@pytest.mark.usefixtures("installed")
def test_a_sweep_of_a_detector() -> None:
    torch.manual_seed(0)
    model, inputs = Detector().eval(), torch.randn(12, 6)
    with torch.no_grad():
        targets: list[Any] = [{key: row[key] for key in ("boxes", "labels")} for row in model(inputs)]
    split = [(inputs, targets)]
    loss = lambda outputs, _targets: outputs.mean()  # noqa: E731
    task = bitfront.Task(model, train=split, calib=split, valid=split, test=split, metrics="map", output="0.boxes", loss=loss)
    choices = {"weight": ["int2:channel", "int8:channel"], "activation": "int8:tensor"}
    sweep = bitfront.sweep(task, **choices, device="counts", trials=2, record=None, log="none", threads=0)  # type: ignore[arg-type]
    low, high = sorted(trial.result.metrics["map"] for trial in sweep.record.trials)
    assert sweep.record.baseline["map_valid"] == pytest.approx(1.0)
    assert low < high
    assert high > 0.7


class Lists(nn.Module):
    """As torchvision's detectors: a list of images of several sizes in, a list of dicts out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert all(len(image) == 3 for image in images)
        found = []
        for image in images:
            low, size = self.head(torch.relu(self.body(image[None])).mean(dim=(2, 3))).view(2, 2)
            found.append(boxes(torch.cat([low, low + size.abs() + 1])[None], 1, scores=(0.5,)))
        return found


@pytest.mark.usefixtures("installed")
def test_a_sweep_of_a_detector_of_lists(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Lists().eval(), [torch.randn(3, 8 + size % 3, 9) for size in range(9)]
    with torch.no_grad():
        targets = [{key: row[key] for key in ("boxes", "labels")} for row in model(images)]
    split = [(images[at : at + 4], targets[at : at + 4]) for at in (0, 4, 8)]
    loss = lambda outputs, _targets: outputs.mean()  # noqa: E731
    task = bitfront.Task(model, train=split, calib=split, valid=split, test=split, metrics="map", output="0.boxes", loss=loss)
    choices = {"weight": ["int2:channel", "int8:channel"], "activation": "int8:tensor"}
    sweep = bitfront.sweep(
        task, **choices, device="counts", trials=2, record=None, log="none", threads=0, options={"evaluate": {"calib": 6, "valid": 5}}
    )  # type: ignore[arg-type]
    assert all(trial.result.ok for trial in sweep.record.trials)
    assert sweep.record.baseline["map_valid"] == pytest.approx(1.0)
    with sweep._opened() as context:
        made = bundle_of(sweep.record, sweep.record.trials[0], context)
    assert safetensors.export(made, tmp_path).checks["top1_agreement"] == 1.0
    with pytest.raises(InputError, match="ONNX cannot represent this network: it takes lists of any number of examples"):
        onnx_qdq.export(made, tmp_path)


def test_its_need_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(InputError, match=r"'map' needs pycocotools \(.*\): pip install 'bitfront\[detection\]'"):
        mean_average_precision().start()
