"""The recipe by which bitfront trains its own networks: SGD with momentum, a one-cycle learning rate, small random shifts and flips."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from quant_core.util.errors import BitfrontError
from search.tasks.cache import digest, trained
from search.tasks.images import Images, Scale
from search.tasks.splits import whole

logger = logging.getLogger(__name__)
PROBED = 8


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of one training. Equal recipes give equal weights for one number of threads, one build of torch
    and, in float32, one kind of processor.

    Attributes:
        seed: of the initial weights, the order of the images and the augmentation.
        epochs, batch: passes over the training split, images per step.
        rate: peak of the one-cycle learning rate (Smith & Topin 2018, arXiv:1708.07120).
        momentum, decay: of SGD with Nesterov momentum; L2 weight decay, on weights but not on batch norm and biases.
        smoothing: label smoothing.
        shift: images are shifted by up to so many pixels, zeros coming in.
        flip: images are mirrored left-right with probability 1/2.
        threads: of torch during training; 0 leaves the process's setting.
        dtype: that the network is made and trained in, "float32" or "float64"; the result is float32. In float64, for twice the time, all
            processors give the same float32 weights: in float32 sums in another order end in another network.
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
    dtype: str = "float32"
    revision: int = 1

    def __post_init__(self) -> None:
        """Refuse what the user may give as an option: a seed below 0, no epoch.

        Raises:
            InputError: which option, and what is allowed.
        """
        whole("seed", self.seed, 0)
        whole("epochs", self.epochs, 1)


def fit(name: str, make: Callable[[], nn.Module], images: Images, scale: Scale, recipe: Recipe) -> nn.Module:
    """Return the network of `make`, in eval mode, trained on `images` by `recipe`: from the cache, or now.

    Args:
        name: what is trained; the start of the cached file's name.
        make: makes the untrained network; called under the recipe's seed.
        images: the training split.
        scale: from pixels to the network's inputs.
        recipe: all else. The cached file is bound to the recipe, the printed form of the network, the scale and the hash of the images.
    """
    data = digest({"pixels": images.pixels, "labels": images.labels})
    with _seeded(recipe.seed):
        model = make()

    def train() -> dict[str, Tensor]:
        with _seeded(recipe.seed), _threads(recipe.threads), _dtype(recipe.dtype):
            trainee = make()
            trainee.to(memory_format=_layout())  # type: ignore[call-overload]
            _train(name, trainee, images, scale, recipe)
        return dict(trainee.float().state_dict())

    bound = {**asdict(recipe), **asdict(scale), "network": str(model), "probe": _probe(model, images, scale), "data": data}
    model.load_state_dict(trained(name, bound, train, (__name__, "search.tasks.images")))
    return model.eval()


def _probe(model: nn.Module, images: Images, scale: Scale) -> str:
    """Return the mean and the spread of the untrained network's outputs on a few images: equal prints do not mean equal networks."""
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(scale(images.pixels[:PROBED])).double()
    return f"{float(outputs.mean()):.3e} {float(outputs.std()):.3e}"


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


@contextmanager
def _dtype(name: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _layout() -> torch.memory_format:
    """Return the order of values in memory in which torch's convolutions of the default dtype are fast."""
    return torch.channels_last if torch.get_default_dtype() == torch.float32 else torch.contiguous_format


def _train(name: str, model: nn.Module, images: Images, scale: Scale, recipe: Recipe) -> None:
    steps = max(1, len(images) // recipe.batch)
    size = min(recipe.batch, len(images))
    optimizer, schedule = _optimizer(model, recipe, recipe.epochs * steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
    model.train()
    start = time.perf_counter()
    for epoch in range(recipe.epochs):
        total = 0.0
        order = torch.randperm(len(images))[: steps * size]  # a ragged last batch would skew the batch statistics
        for picked in torch.split(order, size):
            part = images.subset(picked)
            inputs = scale(augment(part.pixels, recipe.shift, recipe.flip)).to(torch.get_default_dtype(), memory_format=_layout())
            loss = criterion(model(inputs), part.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise BitfrontError(
                f"training {name} diverged: loss {total} in epoch {epoch + 1}. A lower learning rate or another seed may help."
            )
        seconds = time.perf_counter() - start
        logger.info("%s: epoch %d of %d, loss %.3f, %.0f s", name, epoch + 1, recipe.epochs, total / steps, seconds)


def _optimizer(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": recipe.decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps + 1)


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
