"""CIFAR-10 (Krizhevsky 2009) from the user's copy of the official python or binary batches, and the trained ResNet-20 of akamaster."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quant_core.util.errors import InputError
from search.tasks.files import Source, locate
from search.tasks.images import Images, Scale, Sizes, image_task
from search.tasks.networks import build_network
from search.tasks.networks.checkpoint import load_checkpoint
from search.tasks.task import Task
from search.tasks.training import Recipe, fit

BINARY = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
PYTHON = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
SOURCE = Source(
    "cifar10",
    (PYTHON, BINARY),
    "They are on https://www.cs.toronto.edu/~kriz/cifar.html (python or binary version, unpacked); bitfront never downloads.",
    ("cifar-10-batches-py", "cifar-10-batches-bin"),
)
PER_BATCH = 10_000
VALID = 5_000
ROW = 3 * 32 * 32
# The channel means and deviations that akamaster's checkpoint was trained with (those of ImageNet); our own trainings use the same.
SCALE = Scale(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RECIPE = Recipe(epochs=10, batch=128, rate=0.2, shift=4, flip=True)


def cifar10(
    path: str | None = None,
    network: str = "resnet20",
    checkpoint: str | None = None,
    seed: int = 0,
    epochs: int = RECIPE.epochs,
    train_size: int | None = None,
    calib_size: int = 512,
    valid_size: int | None = None,
    test_size: int | None = None,
    batch_size: int = 128,
) -> Task:
    """Return CIFAR-10: 45,000 / 5,000 / 10,000 images for training, validation (the last of batch 5) and test.

    Args:
        path: folder with the unpacked batches (python or binary version), or the folder above it (cifar-10-batches-py,
            cifar-10-batches-bin or cifar10); default BITFRONT_DATA.
        network: resnet8, mobilenetv2, dscnn, resnet20, or the user's `package.module:function` of (channels, classes).
        checkpoint: a file of trained weights for `network`, e.g. resnet20-12fca82f.th of akamaster/pytorch_resnet_cifar10. Its authors
            trained on all 50,000 images, so `valid` was seen in training then. Without it the network is trained here, once.
        seed, epochs: of that training.
        train_size, calib_size, valid_size, test_size: take so many of a split, to save time; the float network always sees all.
        batch_size: of `train` and `calib`.

    Raises:
        InputError: no data, other data, a checkpoint of another network, unknown network, a size outside its split.
    """
    first, test = _splits(path)
    train, valid = first.subset(slice(-VALID)), first.subset(slice(-VALID, None))
    make: Callable[[], nn.Module] = partial(build_network, network, 3, 10)
    if checkpoint:
        model = load_checkpoint(make(), Path(checkpoint).expanduser())
    else:
        model = fit(f"cifar10-{network.rpartition(':')[2]}", make, train, SCALE, replace(RECIPE, seed=seed, epochs=epochs))
    return image_task(model, train, valid, test, Sizes(train_size, calib_size, valid_size, test_size, batch_size), SCALE)


def _splits(path: str | None) -> tuple[Images, Images]:
    """Return the official 50,000 training and 10,000 test images."""
    folder, names = locate(SOURCE, path)
    read = read_binary if names == BINARY else read_python
    *parts, last = (read(folder / name) for name in names)
    train = Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))
    return _balanced(train, folder), _balanced(last, folder)


def _balanced(images: Images, folder: Path) -> Images:
    counts = torch.bincount(images.labels, minlength=10).tolist()
    if counts != [len(images) // 10] * 10:
        raise InputError(f"{folder} is not the official CIFAR-10: images per class {counts}, expected {len(images) // 10} of each.")
    return images


def read_binary(path: Path) -> Images:
    """Return one batch of the binary version: rows of one label byte and 3,072 pixel bytes (red, green, blue planes).

    Raises:
        InputError: the file has another size.
    """
    content = np.fromfile(path, dtype=np.uint8)
    if content.size != PER_BATCH * (ROW + 1):
        raise InputError(f"{path} holds {content.size} bytes; a batch of {PER_BATCH} images has {PER_BATCH * (ROW + 1)}. Get it again.")
    rows = content.reshape(PER_BATCH, ROW + 1)
    return _images(rows[:, 1:], rows[:, 0], path)


def read_python(path: Path) -> Images:
    """Return one batch of the python version: a pickle of a dict with b"data" (uint8 [10000, 3072]) and b"labels" (10000 ints).

    Only what such a file needs may be unpickled, so that a file of somebody else cannot run code.

    Raises:
        InputError: the file is no such pickle, or of another size.
    """
    try:
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"{path} is no python batch of CIFAR-10: {type(error).__name__}: {error}") from error
    if pixels.shape != (PER_BATCH, ROW) or pixels.dtype != np.uint8 or labels.shape != (PER_BATCH,):
        content = f"data {pixels.dtype} {pixels.shape} and labels {labels.shape}"
        raise InputError(f"{path} has {content}; a batch has data uint8 {(PER_BATCH, ROW)} and labels {(PER_BATCH,)}.")
    return _images(pixels, labels, path)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) in {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}:
            return _reconstruct
        if (module, name) == ("_codecs", "encode"):  # how Python 3 pickles bytes in protocol 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _reconstruct(kind: type[NDArray[np.uint8]], shape: tuple[int, ...], code: bytes) -> NDArray[np.uint8]:
    return np.ndarray.__new__(kind, shape, code.decode() if isinstance(code, bytes) else code)


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.generic], path: Path) -> Images:
    targets = labels.astype(np.int64)
    if targets.min() < 0 or targets.max() > 9:
        raise InputError(f"{path} has labels from {targets.min()} to {targets.max()}; those of CIFAR-10 are 0 to 9.")
    return Images(torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), torch.from_numpy(targets))
