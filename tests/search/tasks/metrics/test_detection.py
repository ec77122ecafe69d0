"""Mean average precision, where torchmetrics and its parts are installed."""

import pytest
import torch

from quant_core.util.errors import InputError
from search.tasks.metrics.detection import mean_average_precision
from search.tasks.metrics.state import Judged

BOX = torch.tensor([[0.0, 0.0, 4.0, 4.0]])


def test_boxes_that_are_right_have_a_precision_of_1() -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    pytest.importorskip("torchmetrics.detection", reason="torchmetrics is not installed")
    state = mean_average_precision().start()
    found = [{"boxes": BOX, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}]
    state.update(Judged(BOX, [{"boxes": BOX, "labels": torch.tensor([1])}], whole=found))
    assert state.values()[0] == pytest.approx(1.0)


def test_what_it_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics.detection", None)
    with pytest.raises(InputError, match=r"'map' needs torchmetrics with pycocotools and torchvision \(.*\); install them"):
        mean_average_precision().start()
