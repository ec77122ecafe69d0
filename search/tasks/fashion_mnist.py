"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 28x28 grey images of clothes in 10 classes, from the user's copy of the IDX files."""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from quant_core.util.errors import InputError
from search.tasks.files import Source, locate, verified
from search.tasks.images import Images, Scale, Sizes, image_task
from search.tasks.networks import build_network
from search.tasks.task import Task
from search.tasks.training import Recipe, fit

FILES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", (60_000, 28, 28)),
    "train-labels-idx1-ubyte.gz": ("25c81989df183df01b3e8a0aad5dffbe", (60_000,)),
    "t10k-images-idx3-ubyte.gz": ("bef4ecab320f06d8554ea6380940ec79", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte.gz": ("bb300cfdad3c16e7a12a480ee83cd310", (10_000,)),
}
SOURCE = Source(
    "fashion_mnist",
    (tuple(FILES),),
    "They are on https://github.com/zalandoresearch/fashion-mnist (data/fashion, 30 MB); bitfront never downloads.",
)
VALID = 5_000
RECIPE = Recipe(epochs=3, batch=128, rate=0.2, flip=True)


def fashion_mnist(
    path: str | None = None,
    network: str = "resnet8",
    seed: int = 0,
    epochs: int = RECIPE.epochs,
    train_size: int | None = None,
    calib_size: int = 512,
    valid_size: int | None = None,
    test_size: int | None = None,
    batch_size: int = 128,
) -> Task:
    """Return Fashion-MNIST: 55,000 / 5,000 / 10,000 images for training, validation (the last of the training file) and test.

    Args:
        path: folder with the four official .gz files, or the folder above a `fashion_mnist` that holds them; default BITFRONT_DATA.
        network: resnet8, mobilenetv2, dscnn, resnet20, or the user's `package.module:function` of (channels, classes).
        seed: of the float network's training.
        epochs: of the float network's training (minutes on 2 cores, once; then cached).
        train_size, calib_size, valid_size, test_size: take so many of a split, to save time; the float network always sees all.
        batch_size: of `train` and `calib`.

    Raises:
        InputError: no data, other data, unknown network, a size outside its split.
    """
    folder, _ = locate(SOURCE, path)
    first, last = (_images(folder, part) for part in ("train", "t10k"))
    train, valid = first.subset(slice(-VALID)), first.subset(slice(-VALID, None))
    recipe = replace(RECIPE, seed=seed, epochs=epochs)
    model = fit(f"fashion_mnist-{network.rpartition(':')[2]}", partial(build_network, network, 1, 10), train, Scale(), recipe)
    return image_task(model, train, valid, last, Sizes(train_size, calib_size, valid_size, test_size, batch_size), Scale())


def _images(folder: Path, part: str) -> Images:
    pixels, labels = (read_idx(folder / name, *FILES[name]) for name in (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"))
    return Images(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def read_idx(path: Path, md5: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the array of a gzipped IDX file of unsigned bytes: magic 0x0000_08_<rank>, the sizes as big-endian uint32, the data.

    Raises:
        InputError: the hash, the header or the size is not the expected one.
    """
    packed = verified(path, md5)
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip file: {error}") from error
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    if not content.startswith(header) or len(content) != len(header) + np.prod(shape):
        raise InputError(f"{path} holds {len(content)} bytes that begin {content[:16].hex()}; expected uint8 of shape {shape} in IDX form.")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape).copy()
