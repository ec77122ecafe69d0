"""The embedded task: scikit-learn's 8x8 digits (1,797 images, bundled with it) and a small CNN trained on first use, in seconds."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from search.networks.digits import DigitsNet
from search.task import Task
from search.tasks.splits import batches, permutation, take
from search.tasks.training import Recipe, fit

TRAIN, VALID, TEST = 898, 299, 600
RECIPE = Recipe(epochs=8, batch=32, rate=0.1, threads=1)


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
    calib = take("calib_size", calib_size, TRAIN)
    valid, test = take("valid_size", valid_size, VALID), take("test_size", test_size, TEST)
    step = take("batch_size", batch_size, TRAIN)
    images, labels = _images()
    model = fit("digits", DigitsNet, images[:TRAIN], labels[:TRAIN], replace(RECIPE, seed=seed))
    order = permutation(TRAIN, seed=0)
    return Task(
        model=model,
        train=batches(images[order], labels[order], step),
        calib=batches(images[order[:calib]], labels[order[:calib]], step),
        valid=batches(images[TRAIN : TRAIN + valid], labels[TRAIN : TRAIN + valid], valid),
        test=batches(images[-TEST:][:test], labels[-TEST:][:test], test),
    )


@cache
def _images() -> tuple[Tensor, Tensor]:
    """Return images [1797, 1, 8, 8] in [0, 1] (17 grey levels) and labels [1797]."""
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 16).view(-1, 1, 8, 8)
    return images, torch.from_numpy(np.asarray(targets, dtype=np.int64))
