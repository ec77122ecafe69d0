"""PneumoniaMNIST of MedMNIST v2 (Yang et al. 2023, doi:10.1038/s41597-022-01721-8): 28x28 chest X-rays, healthy or pneumonia."""

import io
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from quant_core.util.errors import InputError
from search.tasks.files import Source, locate, verified
from search.tasks.images import Images, Scale, Sizes, image_task
from search.tasks.networks import build_network
from search.tasks.task import Task
from search.tasks.training import Recipe, fit

MD5 = {"pneumoniamnist.npz": "28209eda62fecd6e6a2d98b1501bb15f", "pneumoniamnist_28.npz": "180ea72e067e50dd4da0120075544874"}
SOURCE = Source(
    "pneumoniamnist",
    tuple((name,) for name in MD5),
    "It is on https://zenodo.org/records/10519652 (pneumoniamnist.npz, 4 MB); bitfront never downloads.",
)
COUNTS = {"train": (1214, 3494), "val": (135, 389), "test": (234, 390)}
RECIPE = Recipe(epochs=6, batch=64, rate=0.1, decay=1e-3, shift=2)


def pneumoniamnist(
    path: str | None = None,
    network: str = "resnet8",
    seed: int = 0,
    epochs: int = RECIPE.epochs,
    train_size: int | None = None,
    calib_size: int = 512,
    valid_size: int | None = None,
    test_size: int | None = None,
    batch_size: int = 64,
) -> Task:
    """Return PneumoniaMNIST: 4,698 / 524 / 624 images; class 1 is pneumonia (74 % of training and validation, 62.5 % of test).

    The official training split repeats 8 images of the validation split, in 10 places; those are left out of training here.

    Args:
        path: folder with pneumoniamnist.npz, or the folder above a `pneumoniamnist` that holds it; default BITFRONT_DATA.
        network: resnet8, mobilenetv2, dscnn, resnet20, or the user's `package.module:function` of (channels, classes).
        seed: of the float network's training.
        epochs: of the float network's training (half a minute on 2 cores, once; then cached).
        train_size, calib_size, valid_size, test_size: take so many of a split, to save time; the float network always sees all.
        batch_size: of `train` and `calib`.

    Raises:
        InputError: no data, other data, unknown network, a size outside its split.
    """
    folder, (name,) = locate(SOURCE, path)
    splits = read(folder / name)
    train, valid, test = without(splits["train"], splits["val"]), splits["val"], splits["test"]
    recipe = replace(RECIPE, seed=seed, epochs=epochs)
    model = fit(f"pneumoniamnist-{network.rpartition(':')[2]}", partial(build_network, network, 1, 2), train, Scale(), recipe)
    return image_task(model, train, valid, test, Sizes(train_size, calib_size, valid_size, test_size, batch_size), Scale())


def read(path: Path) -> dict[str, Images]:
    """Return the splits "train", "val" and "test" of the npz file, whose hash, shapes and class counts are checked.

    Raises:
        InputError: it is another file, or damaged.
    """
    try:
        with np.load(io.BytesIO(verified(path, MD5[path.name])), allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for part in COUNTS for name in (f"{part}_images", f"{part}_labels")}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not PneumoniaMNIST: {error}") from error
    splits = {}
    for part, counts in COUNTS.items():
        pixels, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].reshape(-1)
        if pixels.shape != (sum(counts), 28, 28) or pixels.dtype != np.uint8 or tuple(np.bincount(labels)) != counts:
            content = f"{pixels.dtype} {pixels.shape} and labels {np.bincount(labels).tolist()}"
            raise InputError(f"{path}: split {part!r} has {content}; expected uint8 {(sum(counts), 28, 28)} and labels {list(counts)}.")
        splits[part] = Images(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
    return splits


def without(images: Images, others: Images) -> Images:
    """Return `images` less those that stand in `others` pixel for pixel."""
    seen = {image.numpy().tobytes() for image in others.pixels}
    return images.subset(torch.tensor([index for index, image in enumerate(images.pixels) if image.numpy().tobytes() not in seen]))
