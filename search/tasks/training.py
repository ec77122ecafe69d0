"""The recipe by which bitfront trains its own networks: SGD with momentum, a one-cycle learning rate, small random shifts and flips."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from search.tasks.cache import digest, trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Equal recipes give equal weights (for one number of threads and one build of torch).

    Attributes:
        seed: of the initial weights, the order of the images and the augmentation.
        epochs, batch: passes over the training split, images per step.
        rate: peak of the one-cycle learning rate (Smith & Topin 2018, arXiv:1708.07120).
        momentum, decay: of SGD with Nesterov momentum; L2 weight decay, on weights but not on batch norm and biases.
        smoothing: label smoothing.
        shift: images are shifted by up to so many pixels, zeros coming in.
        flip: images are mirrored left-right with probability 1/2.
        threads: of torch during training; 0 leaves the process's setting.
        revision: raised when the code of the network or of this loop changes its outcome.
    """

    seed: int = 0
    epochs: int = 3
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    threads: int = 0
    revision: int = 1


def fit(name: str, build: Callable[[], nn.Module], images: Tensor, labels: Tensor, recipe: Recipe) -> nn.Module:
    """Return the network of `build` trained on images [N, C, H, W] and labels [N] by `recipe`, in eval mode; from the cache if there."""
    with _seeded(recipe.seed):
        model = build()
    key = {**asdict(recipe), "network": str(model), "data": digest({"images": images, "labels": labels})}

    def train() -> dict[str, Tensor]:
        with _seeded(recipe.seed), _threads(recipe.threads):
            _train(name, model, images, labels, recipe)
        return model.state_dict()

    model.load_state_dict(trained(name, key, train))
    return model.eval()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(name: str, model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
    steps = recipe.epochs * max(1, len(images) // recipe.batch)
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps + 1)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    model.train()
    start = time.perf_counter()
    for epoch in range(recipe.epochs):
        total = 0.0
        for picked in torch.split(torch.randperm(len(images)), recipe.batch):
            if len(picked) < min(recipe.batch, len(images)):
                continue  # a ragged last batch would skew the batch statistics
            loss = criterion(model(augment(images[picked], recipe.shift, recipe.flip)), labels[picked])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(picked)
        seconds = time.perf_counter() - start
        logger.info("%s: epoch %d of %d, loss %.3f, %.0f s", name, epoch + 1, recipe.epochs, total / len(images), seconds)


def augment(images: Tensor, shift: int, flip: bool) -> Tensor:
    """Return images [N, C, H, W], each shifted by up to `shift` pixels (zeros come in) and, if `flip`, mirrored with probability 1/2."""
    n, channels, height, width = images.shape
    if shift:
        padded = nn.functional.pad(images, (shift, shift, shift, shift))
        rows = torch.randint(0, 2 * shift + 1, (n, 1)) + torch.arange(height)
        columns = torch.randint(0, 2 * shift + 1, (n, 1)) + torch.arange(width)
        every = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
        images = padded[(*every, rows[:, None, :, None], columns[:, None, None, :])]
    if flip:
        images = torch.where(torch.rand(n, 1, 1, 1) < 0.5, images.flip(3), images)
    return images
