"""PneumoniaMNIST: the npz file read and verified."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quant_core.util.errors import InputError
from search.tasks import load, pneumoniamnist
from search.tasks.images import Images
from search.tasks.task import Task

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFRONT_DATA", raising=False)


def sizes(task: Task) -> dict[str, int]:
    return {split: sum(len(labels) for _, labels in getattr(task, split)) for split in ("train", "calib", "valid", "test")}


def test_real_pneumoniamnist_loses_the_validation_images_from_its_training_split(shared_data: Path) -> None:
    task = load("pneumoniamnist", {"path": str(shared_data), "network": "dscnn", "epochs": 1})
    assert sizes(task) == {"train": 4698, "calib": 512, "valid": 524, "test": 624}
    train = {image.numpy().tobytes() for images, _ in task.train for image in images}
    valid = {image.numpy().tobytes() for images, _ in task.valid for image in images}
    assert not train & valid


def npz(**arrays: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def small_pneumonia(labels: dict[str, list[int]]) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for part, classes in labels.items():
        arrays[f"{part}_images"] = RNG.integers(0, 256, (len(classes), 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.array(classes, dtype=np.uint8)[:, None]
    return arrays


def test_npz_in_the_official_form_is_read_and_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small_pneumonia({"train": [0, 1, 1], "val": [1, 0], "test": [0, 1]})
    path = tmp_path / "pneumoniamnist.npz"

    def write(content: bytes, counts: dict[str, tuple[int, int]]) -> None:
        path.write_bytes(content)
        monkeypatch.setattr(pneumoniamnist, "MD5", {path.name: hashlib.md5(content).hexdigest()})
        monkeypatch.setattr(pneumoniamnist, "COUNTS", counts)

    counts = {"train": (1, 2), "val": (1, 1), "test": (1, 1)}
    write(npz(**arrays), counts)
    splits = pneumoniamnist.read(path)
    assert splits["train"].labels.tolist() == [0, 1, 1]
    assert np.array_equal(splits["val"].pixels.numpy()[:, 0], arrays["val_images"])
    write(npz(**arrays), {**counts, "test": (2, 0)})
    with pytest.raises(
        InputError, match=r"split 'test' has uint8 \(2, 28, 28\) and labels \[1, 1\]; expected uint8 \(2, 28, 28\) and labels \[2, 0\]"
    ):
        pneumoniamnist.read(path)
    write(npz(train_images=arrays["train_images"]), counts)
    with pytest.raises(InputError, match=r"is not PneumoniaMNIST: .*train_labels"):
        pneumoniamnist.read(path)
    write(b"PK nonsense", counts)
    with pytest.raises(InputError, match="is not PneumoniaMNIST"):
        pneumoniamnist.read(path)
    path.write_bytes(b"other")
    with pytest.raises(InputError, match="not the official file: MD5"):
        pneumoniamnist.read(path)


def test_images_that_stand_elsewhere_are_left_out() -> None:
    images = Images(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.arange(4))
    others = Images(torch.tensor([[[[2]]], [[[9]]]], dtype=torch.uint8), torch.arange(2))
    assert pneumoniamnist.without(images, others).labels.tolist() == [0, 1, 3]
