"""Images in folders: splits, transforms against a calculation of our own, streaming, networks of users and of timm (a stand-in)."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quant_core.util.errors import BitfrontError, InputError
from search import tasks
from search.tasks.image_folder import ImageFiles, Transform, image_folder
from search.tasks.images import Scale

Image = pytest.importorskip("PIL.Image", reason="Pillow is an extra: pip install 'bitfront[images]'")


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def not_a_network() -> int:
    return 3


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make this module importable under a name."""
    monkeypatch.setitem(sys.modules, "own_images", SimpleNamespace(network=network, not_a_network=not_a_network))
    return "own_images:network"


def fill(folder: Path, counts: dict[str, int], size: tuple[int, int] = (12, 10)) -> None:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = np.full((size[1], size[0], 3), 40 * number + k, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")


def labels(split: Any) -> list[int]:
    return [int(label) for _, targets in split for label in targets]


def test_one_folder_is_shuffled_and_split_without_overlap(tmp_path: Path, named: str) -> None:
    fill(tmp_path, {"cat": 8, "dog": 8, "eel": 8})
    task = tasks.load("image_folder", {"path": str(tmp_path), "model": named, "resize": 0, "size": 8, "calib_size": 6, "batch_size": 4})
    splits = (task.calib, task.valid, task.test)
    assert [sum(len(targets) for _, targets in split) for split in splits] == [6, 9, 9]
    means = [sorted(float(x.mean()) for inputs, _ in split for x in inputs) for split in splits]
    assert len({round(mean, 5) for part in means for mean in part}) == 24  # every image once
    assert set(labels(task.valid)) == {0, 1, 2}
    again = tasks.load("image_folder", {"path": str(tmp_path), "model": named, "resize": 0, "size": 8, "calib_size": 6, "batch_size": 4})
    assert labels(again.test) == labels(task.test)


def test_folders_of_splits_are_used_and_classes_agree(tmp_path: Path, named: str) -> None:
    fill(tmp_path / "train", {"cat": 5, "dog": 5})
    fill(tmp_path / "val", {"dog": 4})
    fill(tmp_path / "test", {"cat": 3})
    task = image_folder(str(tmp_path), named, resize=0, size=8, calib_size=4, test_size=2)
    assert (len(labels(task.train)), len(labels(task.calib)), labels(task.valid), labels(task.test)) == (10, 4, [1] * 4, [0] * 2)


def test_validation_alone_gives_calibration_and_test_too(tmp_path: Path, named: str) -> None:
    fill(tmp_path / "val", {"cat": 10, "dog": 10})
    task = image_folder(str(tmp_path), named, resize=0, size=8, calib_size=4)
    assert [len(labels(split)) for split in (task.calib, task.valid, task.test)] == [4, 6, 10]


def test_pixels_are_resized_cropped_and_scaled_as_stated(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    transform = Transform(10, 8, Scale(255.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    [(inputs, targets)] = ImageFiles([(tmp_path / "a.png", 7)], 4, transform)
    small = np.asarray(Image.fromarray(pixels).resize((15, 10), Image.Resampling.BICUBIC))[1:9, 3:11].astype(np.float64)
    wanted = (small / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    assert targets.tolist() == [7]
    torch.testing.assert_close(inputs[0].double(), torch.from_numpy(wanted).permute(2, 0, 1), atol=1e-6, rtol=0)


def test_only_the_batches_that_are_asked_for_are_read(tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"cat": 20, "dog": 20})
    task, read = image_folder(str(tmp_path), named, resize=0, size=8, calib_size=8, batch_size=4), []
    plain = Transform.read
    monkeypatch.setattr(Transform, "read", lambda self, path: (read.append(path), plain(self, path))[1])
    next(iter(task.valid))
    assert len(read) == 4


def test_timm_gives_its_own_mean_and_deviation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm needs torchvision, which has no build for this machine: a stand-in for the one function that is called."""
    asked: list[tuple[str, dict[str, object]]] = []

    def create_model(name: str, **options: object) -> nn.Module:
        asked.append((name, options))
        made = network(2)
        made.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}  # type: ignore[assignment]
        return made

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    fill(tmp_path, {"cat": 6, "dog": 6})
    task = image_folder(str(tmp_path), "timm:resnet18", {"pretrained": True}, resize=0, size=8, calib_size=4)
    assert asked == [("resnet18", {"pretrained": True})]
    assert isinstance(task.valid, ImageFiles)
    assert (task.valid.transform.scale.mean, task.valid.transform.scale.deviation) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "there is no such folder"),
        ({"path": "empty"}, "holds no image in a folder per class"),
        ({"calib_size": 11}, "leaves none for valid and test"),
        ({"valid_size": 99}, "valid_size = 99: give a whole number from 1 to"),
        ({"size": 0}, "size = 0: give a whole number of at least 1"),
        ({"model": "timm:resnet18"}, "needs timm"),
        ({"model": "own_images:not_a_network"}, "gave a int; the function must return a torch.nn.Module"),
        ({"model": "own_images:missing"}, "has no 'missing'"),
        ({"checkpoint": "none.safetensors"}, "does not exist"),
    ],
)
def test_wrong_options_are_answered(
    options: dict[str, Any], message: str, tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "data", {"cat": 6, "dog": 6})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=message):
        image_folder(**{"path": "data", "model": named, "resize": 0, "size": 8, "calib_size": 4} | options)


def test_files_that_are_no_images_or_too_small_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    transform = Transform(0, 8, Scale())
    with pytest.raises(BitfrontError, match=r"a.png is no image that Pillow can read"):
        transform.read(tmp_path / "a.png")
    with pytest.raises(BitfrontError, match=r"b.png has 4 x 4 pixels, size = 8 is cut out of it: give resize too"):
        transform.read(tmp_path / "b.png")
