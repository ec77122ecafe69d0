"""A user's own task, for tests that run the command line: a small trained network, and ways in which it goes wrong."""

import contextlib
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from search.tasks.task import Task


class Slow(nn.Module):
    """A network that takes its time."""

    def __init__(self, body: nn.Module, seconds: float) -> None:
        super().__init__()
        self.body, self.seconds = body, seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.body(x)


class BreaksWhenCoarse(nn.Module):
    """Returns NaN (or raises) once its first layer holds few distinct weights: a kernel that fails for some policies only."""

    def __init__(self, body: nn.Sequential, levels: int, raises: bool) -> None:
        super().__init__()
        self.body, self.levels, self.raises = body, levels, raises

    def forward(self, x: Tensor) -> Tensor:
        if len(self.body[0].weight[0].unique()) <= self.levels:
            if self.raises:
                raise RuntimeError("no kernel for this policy")
            return self.body(x) * float("nan")
        return self.body(x)


class FailsInThreeWays(BreaksWhenCoarse):
    """What fails depends on how coarse the second layer is: no memory, an exception, or NaN."""

    def forward(self, x: Tensor) -> Tensor:
        levels = len(self.body[2].weight[0].unique())
        if len(self.body[0].weight[0].unique()) <= self.levels and levels <= 4:
            raise MemoryError("48 GiB asked for")
        self.raises = levels <= 16
        return super().forward(x)


class HangsWhenCoarse(BreaksWhenCoarse):
    """Hangs in one long call instead, in another process than the one that made it."""

    def __init__(self, body: nn.Sequential, levels: int) -> None:
        super().__init__(body, levels, raises=False)
        self.home = os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home and len(self.body[0].weight[0].unique()) <= self.levels:
            time.sleep(600)
        return self.body(x)


class Trouble(nn.Module):
    """Ends its process, or hangs, the first time that it runs in another process than the one that made it; `folder` remembers."""

    def __init__(self, body: nn.Module, folder: str, home: int) -> None:
        super().__init__()
        self.body, self.folder, self.home = body, Path(folder), home

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home:
            for name in ("die", "hang"):
                with contextlib.suppress(FileExistsError):
                    (self.folder / name).touch(exist_ok=False)
                    os._exit(9) if name == "die" else time.sleep(600)
        return self.body(x)


def trained(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return a network that has learnt to add signs, and its data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = torch.randn(700, 12)
        targets = (inputs[:, :4].sum(dim=1) > 0).long() + (inputs[:, 4:8].sum(dim=1) > 0).long()
        model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[:400]), targets[:400]).backward()
            optimizer.step()
    return model.eval(), inputs, targets


def tiny(channels: int, classes: int) -> nn.Module:
    """Return a network for images in a fraction of a second per epoch: every kind of layer that integer engines run."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )


def make(
    seed: int = 0,
    sleep: float = 0.0,
    breaks: int = 0,
    raises: bool = False,
    nan: bool = False,
    data_shift: float = 0.0,
    trouble: str = "",
    hangs: int = 0,
    mixed: bool = False,
) -> Task:
    """Return the task; options make it slow, or break it."""
    body, inputs, targets = trained(seed)
    model: nn.Module = body
    if sleep:
        model = Slow(body, sleep)
    if breaks:
        model = FailsInThreeWays(body, breaks, raises) if mixed else BreaksWhenCoarse(body, breaks, raises)
    if hangs:
        model = HangsWhenCoarse(body, hangs)
    if trouble:
        model = Trouble(body, trouble, os.getpid())
    if nan:
        body[2].weight.data[0, 0] = float("nan")
    inputs = inputs + data_shift
    calib, valid, test = ((inputs[a:b], targets[a:b]) for a, b in ((0, 128), (400, 550), (550, 700)))
    return Task(model, train=[(inputs[:400], targets[:400])], calib=[calib], valid=[valid], test=[test])


def raises() -> Task:
    """Fail."""
    raise RuntimeError("the disk is gone")


def shuffled() -> Task:
    """Forget to seed the training, and shuffle every split at every pass."""
    task = make()
    ((x, y),) = task.train
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    return Task(model, train=loader, calib=loader, valid=loader, test=loader)


def interrupted() -> Task:
    """Be ended by Ctrl-C."""
    raise KeyboardInterrupt


def not_a_task() -> int:
    """Return something else."""
    return 3
