"""The splits, scaling and batches that the image tasks share: from arrays of images to a `Task`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from search.tasks.splits import permutation, take
from search.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Images:
    """Images [N, C, H, W] as uint8 and their labels [N] as int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def subset(self, index: Tensor | slice) -> "Images":
        """Return the images at an index."""
        return Images(self.pixels[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Scale:
    """The map from pixels to network inputs: (pixel / `full` - mean) / deviation, per channel."""

    full: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 [N, C, H, W] to float32 [N, C, H, W]."""
        mean, deviation = (torch.tensor(x).view(1, -1, 1, 1) for x in (self.mean, self.deviation))
        return pixels.to(torch.float32, copy=True).div_(self.full).sub_(mean).div_(deviation)


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of images in a fixed order, scaled when they are read: a quarter of the memory of floats. Re-iterable."""

    images: Images
    size: int
    scale: Scale = field(default_factory=Scale)

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.images) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs [size, C, H, W], labels [size])."""
        for start in range(0, len(self.images), self.size):
            part = self.images.subset(slice(start, start + self.size))
            yield self.scale(part.pixels), part.labels


@dataclass(frozen=True)
class Sizes:
    """The number of images of each split to use; None takes all. Batches of `train` and `calib`, then of `valid` and `test`."""

    train: int | None = None
    calib: int | None = None
    valid: int | None = None
    test: int | None = None
    batch: int = 64
    read: int = 500


def image_task(model: nn.Module, train: Images, valid: Images, test: Images, sizes: Sizes, scale: Scale) -> Task:
    """Return a task over image splits.

    `train` and `calib` (its first images) come in one shuffled order, the same for every seed.

    Raises:
        InputError: a size outside its split.
    """
    order = permutation(len(train), seed=0)
    kept = order[: take("train_size", sizes.train, len(train))]
    calib = order[: take("calib_size", sizes.calib, len(train))]
    valid = valid.subset(slice(take("valid_size", sizes.valid, len(valid))))
    test = test.subset(slice(take("test_size", sizes.test, len(test))))
    step = take("batch_size", sizes.batch, len(train))
    return Task(
        model=model,
        train=Batches(train.subset(kept), step, scale),
        calib=list(Batches(train.subset(calib), step, scale)),
        valid=list(Batches(valid, sizes.read, scale)),
        test=list(Batches(test, sizes.read, scale)),
    )
