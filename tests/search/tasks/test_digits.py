"""The embedded digits task."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.util.errors import InputError
from search.tasks import load
from search.tasks.cache import digest
from search.tasks.digits import _images
from search.tasks.task import Task

HERE = "test_tasks_own"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFRONT_CACHE", str(folder))
        yield folder


def accuracy(task: Task, split: str) -> float:
    with torch.no_grad():
        return float(torch.cat([task.score(task.model(x), y) for x, y in getattr(task, split)]).mean())


def test_digits_is_accurate_split_without_overlap_and_of_the_stated_size(cached: Path) -> None:
    task = load("digits", {"calib_size": 100, "valid_size": 50})
    counts = {split: sum(len(y) for _, y in getattr(task, split)) for split in ("train", "calib", "valid", "test")}
    assert counts == {"train": 898, "calib": 100, "valid": 50, "test": 600}
    assert accuracy(task, "test") > 0.95
    images = {split: {x.numpy().tobytes() for batch, _ in getattr(task, split) for x in batch} for split in counts}
    assert images["calib"] <= images["train"]
    assert not images["train"] & images["test"]
    assert not images["valid"] & (images["train"] | images["test"])
    weights = [m.weight for m in task.model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weights) == 9
    assert sum(w.numel() for w in weights) == 30_592
    assert len(list(cached.glob("digits-*.safetensors"))) == 1


def test_digits_trains_to_other_weights_by_another_seed(cached: Path) -> None:
    first = digest(load("digits", {}).model.state_dict())
    state = torch.random.get_rng_state()
    other = digest(load("digits", {"seed": 1}).model.state_dict())
    assert torch.equal(torch.random.get_rng_state(), state), "training must not disturb the process's random numbers"
    assert other != first


def test_the_images_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = _images()
    assert torch.equal(images.pixels.reshape(-1, 64).double(), torch.from_numpy(pixels))
    assert torch.equal(images.labels, torch.from_numpy(targets))


def test_without_the_package_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.tasks.digits.find_spec", lambda _name: None)
    with pytest.raises(InputError, match="task digits needs sklearn, which brings its images: pip install scikit-learn"):
        _images.__wrapped__()


def test_digits_trains_to_the_same_weights_every_time_and_on_every_processor(cached: Path) -> None:
    assert digest(load("digits", {}).model.state_dict()).startswith("078d6d8cb71a26f4")
