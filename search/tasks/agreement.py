"""Trained networks whose data sets are not at hand: the inputs are seeded noise, and the targets are the float network's own answers.

So the accuracy is how often (or how well) a quantized network still answers like the float one, which scores 1 by construction. It
compares policies on real trained weights; it is no accuracy on the network's own task.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from search.tasks.files import Source, locate
from search.tasks.networks import build_network
from search.tasks.networks.checkpoint import load_checkpoint
from search.tasks.networks.mlperf_tiny import files, reference
from search.tasks.networks.mlperf_tiny import mlperf_tiny as load_reference
from search.tasks.splits import take, whole
from search.tasks.task import Batch, Task

CELLS = (2, 4, 8)
GRAIN = 0.3
MOST = 100_000
STEP = 128
CHECKPOINT = Source(
    "resnet20_cifar10",
    (("resnet20-12fca82f.th",),),
    "It is in pretrained_models of https://github.com/akamaster/pytorch_resnet_cifar10; bitfront never downloads.",
)


def mlperf_tiny(
    path: str | None = None,
    network: str = "resnet8",
    seed: int = 0,
    train_size: int = 1024,
    calib_size: int = 256,
    valid_size: int = 512,
    test_size: int = 512,
) -> Task:
    """Return a reference network of MLPerf Tiny, judged by its agreement with itself in float on noise.

    Args:
        path: folder with its files, or the folder above an `mlperf_tiny` that holds them; default BITFRONT_DATA.
        network: resnet8, mobilenet (visual wake words), dscnn (keyword spotting) or autoencoder (anomaly detection; its score is one
            minus the relative squared distance to the float network's output, at least 0).
        seed: of the noise.
        train_size, calib_size, valid_size, test_size: how many inputs.

    Raises:
        InputError: unknown network, missing or damaged files, a size below 1.
    """
    needed = reference(network)
    advice = "The weights are those of https://github.com/mlcommons/tiny in torch layout; bitfront never downloads."
    folder, _ = locate(Source("mlperf_tiny", (files(network),), advice), path)
    model = load_reference(network, folder)
    return agreement(model, needed.shape, _RANGES[network], seed, (train_size, calib_size, valid_size, test_size))


def resnet20_cifar10(
    path: str | None = None,
    seed: int = 0,
    train_size: int = 1024,
    calib_size: int = 256,
    valid_size: int = 512,
    test_size: int = 512,
) -> Task:
    """Return the trained CIFAR-10 ResNet-20 of akamaster, judged by its agreement with itself in float on noise; without CIFAR-10.

    Args:
        path: folder with resnet20-12fca82f.th, or the folder above a `resnet20_cifar10` that holds it; default BITFRONT_DATA.
        seed: of the noise.
        train_size, calib_size, valid_size, test_size: how many inputs.

    Raises:
        InputError: missing or damaged file, a size below 1.
    """
    folder, (name,) = locate(CHECKPOINT, path)
    model = load_checkpoint(build_network("resnet20", 3, 10), Path(folder) / name)
    return agreement(model, (3, 32, 32), (1.0, -2.0, 2.0), seed, (train_size, calib_size, valid_size, test_size))


# Per network: the steepness of the noise, and the range that its inputs keep (pixels 0..255 or 0..1; unbounded features are +-20 and +-60).
_RANGES = {"resnet8": (1.0, 0.0, 255.0), "mobilenet": (5.0, 0.0, 1.0), "dscnn": (1.0, -20.0, 20.0), "autoencoder": (1.0, -60.0, 60.0)}


def agreement(
    model: nn.Module, shape: tuple[int, ...], values: tuple[float, float, float], seed: int, sizes: tuple[int, int, int, int]
) -> Task:
    """Return a task of noise inputs whose targets are the outputs of `model` on them.

    Args:
        model: in eval mode; gives logits, or as many outputs as inputs (then it is judged as an autoencoder).
        shape: of one input, [C, H, W] or [features].
        values: steepness, lowest and highest value of the inputs.
        seed: of the noise.
        sizes: inputs in train, calib, valid and test.
    """
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    counts = [take(f"{split}_size", n, MOST) for split, n in zip(("train", "calib", "valid", "test"), sizes, strict=True)]
    train, calib, valid, test = (_batches(model, noise(n, shape, values, generator)) for n in counts)
    if train[0][1].dim() == 1:
        return Task(model, train, calib, valid, test)
    return Task(model, train, calib, valid, test, score=closeness, loss=nn.functional.mse_loss)


def noise(n: int, shape: tuple[int, ...], values: tuple[float, float, float], generator: torch.Generator) -> Tensor:
    """Return n smooth random inputs, [n, *shape], of random brightness and contrast, mapped into the range by a sigmoid."""
    channels, height, width = shape if len(shape) == 3 else (1, 1, *shape)
    steepness, low, high = values
    total = GRAIN * torch.randn(n, channels, height, width, generator=generator)
    for cells in CELLS:
        coarse = torch.randn(n, channels, min(cells, height), min(cells, width), generator=generator)
        total += nn.functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
    contrast = 0.1 + 1.5 * torch.rand(n, 1, 1, 1, generator=generator)
    brightness = torch.randn(n, 1, 1, 1, generator=generator)
    return (low + (high - low) * torch.sigmoid(steepness * (contrast * total + brightness))).view(n, *shape)


def closeness(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - |outputs - targets|^2 / |targets|^2, at least 0: [N, F], [N, F] -> [N]."""
    error = (outputs - targets).square().sum(dim=1) / targets.square().sum(dim=1).clamp_min(torch.finfo(targets.dtype).tiny)
    return (1 - error).clamp_min(0)


def _batches(model: nn.Module, inputs: Tensor) -> list[Batch]:
    batches: list[Batch] = []
    for part in torch.split(inputs, STEP):
        with torch.no_grad():
            outputs: Tensor = model(part)
        batches.append((part, outputs if outputs.shape == part.shape else outputs.argmax(dim=1)))
    return batches
