"""The embedded task: scikit-learn's 8x8 digits (1,797 images, bundled with it) and a small CNN trained on first use, in seconds."""

from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from quant_core.util.errors import InputError
from search.tasks.images import Images, Scale, Sizes, image_task
from search.tasks.networks.digits import DigitsNet
from search.tasks.task import Task
from search.tasks.training import Recipe, fit

TRAIN, VALID, TEST = 898, 299, 600
SCALE = Scale(full=16.0)
RECIPE = Recipe(epochs=8, batch=32, rate=0.1, threads=1, dtype="float64")


def digits(seed: int = 0, calib_size: int = 256, valid_size: int = VALID, test_size: int = TEST, batch_size: int = 64) -> Task:
    """Return the digits task: 898 / 299 / 600 images for training, validation and test, the same for every seed.

    The images stand in the order in which they were collected, so the test split holds the handwriting of other people.

    Args:
        seed: of the float network's training.
        calib_size: images of the training split that set activation ranges.
        valid_size, test_size: take so many of a split, to save time.
        batch_size: of `train` and `calib`; `valid` and `test` are one batch each.

    Raises:
        InputError: a size outside its split.
    """
    images = _images()
    train, valid, test = (images.subset(part) for part in (slice(TRAIN), slice(TRAIN, TRAIN + VALID), slice(TRAIN + VALID, None)))
    model = fit("digits", DigitsNet, train, SCALE, replace(RECIPE, seed=seed))
    return image_task(model, train, valid, test, Sizes(None, calib_size, valid_size, test_size, batch_size, read=TEST), SCALE)


@cache
def _images() -> Images:
    """Return all 1,797 images, 17 grey levels, in their order, from the file of `sklearn.datasets.load_digits`, which is slow to import."""
    table = np.loadtxt(_package_folder("sklearn") / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.int64)
    return Images(torch.from_numpy(table[:, :-1].astype(np.uint8)).view(-1, 1, 8, 8), torch.from_numpy(table[:, -1].copy()))


def _package_folder(name: str) -> Path:
    """Return the folder of a package without importing it.

    Raises:
        InputError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"task digits needs {name}, which brings its images: pip install scikit-learn")
    return Path(spec.submodule_search_locations[0])
