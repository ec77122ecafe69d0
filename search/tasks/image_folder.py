"""Images in folders, one folder per class, and any network: a function of the user's, or one of timm's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import load
from quant_core.util.text import listed
from search.tasks.images import Scale
from search.tasks.networks.checkpoint import load_checkpoint
from search.tasks.splits import SPLIT_NAMES, divide, permutation, take, whole
from search.tasks.task import Batch, Task

Files = list[tuple[Path, int]]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM = "timm:"

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Transform:
    """From an image file to the network's input, as ImageNet networks are evaluated.

    Attributes:
        resize: the short side is scaled to so many pixels (bicubic); 0 leaves the image as it is.
        size: the middle square of so many pixels is cut out.
        scale: maps the pixels to inputs.
    """

    resize: int
    size: int
    scale: Scale

    def read(self, path: Path) -> Tensor:
        """Return one image as uint8 [3, size, size].

        Raises:
            BitfrontError: the file is no image, or smaller than what is cut out of it.
        """
        image = open_image(path, str(path))
        if self.resize:
            factor = self.resize / min(image.size)
            image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), BICUBIC)
        if min(image.size) < self.size:
            raise BitfrontError(f"{path} has {image.width} x {image.height} pixels, size = {self.size} is cut out of it: give resize too.")
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Batches of images that are read when they are asked for; never more than one batch is in memory. Re-iterable."""

    files: Sequence[tuple[Path, int]]
    size: int
    transform: Transform

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.files) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs [size, 3, H, W], labels [size])."""
        for start in range(0, len(self.files), self.size):
            part = self.files[start : start + self.size]
            pixels = torch.stack([self.transform.read(path) for path, _ in part])
            yield self.transform.scale(pixels), torch.tensor([label for _, label in part])


def image_folder(
    path: str,
    model: str,
    model_options: Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
    resize: int = 256,
    size: int = 224,
    mean: Sequence[float] | None = None,
    deviation: Sequence[float] | None = None,
    train_size: int | None = None,
    calib_size: int = 64,
    valid_size: int | None = None,
    test_size: int | None = None,
    batch_size: int = 50,
    seed: int = 0,
) -> Task:
    """Return a classification task over folders of images, read batch by batch.

    Args:
        path: a folder with one folder per class, in the order of their names; or with such folders in train, valid (or val) and test.
            Without them the images are shuffled once and split: first `calib_size`, then validation, then test, half each.
        model: "package.module:function" that returns the network, or "timm:NAME" where timm is installed.
        model_options: keyword arguments of that function (`pretrained`, say, for timm; bitfront itself never downloads).
        checkpoint: a file of trained weights for the network: safetensors, or a state dict of torch.
        resize, size: the short side is scaled to `resize` pixels (0: not at all), then the middle `size` x `size` pixels are taken.
        mean, deviation: per channel, of pixels in [0, 1]: the input is (pixel - mean) / deviation. Default: timm's for the network, else
            ImageNet's.
        train_size, calib_size, valid_size, test_size: take so many images of a split.
        batch_size: images per batch.
        seed: of the order of the images.

    Raises:
        InputError: no such folder, no images, fewer than the sizes ask for, no such network, or weights of another one.
    """
    network, own_mean, own_deviation = _network(model, dict(model_options or {}))
    if checkpoint:
        network = load_checkpoint(network, Path(checkpoint).expanduser())
    scale = Scale(255.0, tuple(mean or own_mean), tuple(deviation or own_deviation))
    transform = Transform(whole("resize", resize, 0), whole("size", size, 1), scale)
    train, valid, test, _ = split_files(Path(path).expanduser(), calib_size, seed)
    step = whole("batch_size", batch_size, 1)

    def batches(option: str, size: int | None, files: Files) -> ImageFiles:
        return ImageFiles(files[: take(option, size, len(files))], step, transform)

    return Task(
        network.eval(),
        train=batches("train_size", train_size, train),
        calib=batches("calib_size", calib_size, train),
        valid=batches("valid_size", valid_size, valid),
        test=batches("test_size", test_size, test),
    )


def open_image(file: Path | BinaryIO, name: str) -> Any:
    """Return a file as an RGB image of Pillow; messages call it `name`.

    Raises:
        InputError: Pillow is not installed.
        BitfrontError: the file is no image.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"images are read with Pillow ({error}): pip install 'bitfront[images]'.") from error
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError as error:
        raise BitfrontError(f"{name} is no image that Pillow can read: {error}. Remove it from its folder.") from error


def _network(name: str, options: dict[str, Any]) -> tuple[nn.Module, Sequence[float], Sequence[float]]:
    """Return the network, and the mean and deviation that its inputs are scaled by."""
    if not name.startswith(TIMM):
        function = load(name)
        made = function(**options) if callable(function) else function
        if not isinstance(made, nn.Module):
            raise InputError(f"model = {name!r} gave a {type(made).__name__}; the function must return a torch.nn.Module.")
        return made, IMAGENET_MEAN, IMAGENET_DEVIATION
    try:
        import timm
    except ImportError as error:
        raise InputError(f"model = {name!r} needs timm ({error}): pip install timm, or give 'package.module:function'.") from error
    made = timm.create_model(name.removeprefix(TIMM), **options)
    settings = made.pretrained_cfg
    return made, settings["mean"], settings["std"]


def split_files(root: Path, calib_size: int, seed: int) -> tuple[Files, Files, Files, list[str]]:
    """Return the files of train (calibration begins there), valid and test, in one shuffled order, and the names of the classes.

    Raises:
        InputError: no such folder, or too few images.
    """
    if not root.is_dir():
        raise InputError(f"path = {str(root)!r}: there is no such folder; give one with a folder of images per class.")
    inside = {folder.name: folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    folders = {split: next((inside[name] for name in names if name in inside), None) for split, names in SPLIT_NAMES.items()}
    splits = {split: folder for split, folder in folders.items() if folder is not None}
    present = splits if "valid" in splits else {"": root}
    classes = sorted({folder.name for split in present.values() for folder in split.iterdir() if folder.is_dir()})
    read = {split: _shuffled(_labelled(folder, classes), seed) for split, folder in present.items()}
    train, valid, test = (list(part) for part in divide(read, calib_size, f"path = {str(root)!r}", "images"))
    return train, valid, test, classes


def _labelled(root: Path, classes: Sequence[str]) -> Files:
    """Return every image below the folders of the classes, with the number of its class."""
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    if not files:
        raise InputError(f"{root} holds no image in a folder per class; images end in {listed(SUFFIXES)}.")
    return files


def _shuffled(files: Files, seed: int) -> Files:
    return [files[i] for i in permutation(len(files), seed).tolist()]
