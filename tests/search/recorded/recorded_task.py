"""The task of the recorded sweeps: weights and data are small multiples of powers of two, equal to the last bit on every machine.

It is written as the README of version 0.1.0 said, with `search.task`.
"""

import time

import torch
from torch import Tensor, nn

from search.task import Task


def pattern(shape: tuple[int, ...], step: int, period: int) -> Tensor:
    count = int(torch.tensor(shape).prod())
    values = (torch.arange(count) * step % period - period // 2).float() / 16
    return values.reshape(shape)


class Slow(nn.Sequential):
    seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return super().forward(x)


def make(seconds: float = 0.0) -> Task:
    model = Slow(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model.seconds = seconds
    with torch.no_grad():
        for n, parameter in enumerate(model.parameters()):
            parameter.copy_(pattern(tuple(parameter.shape), 37 + 2 * n, 23))
    inputs = pattern((480, 8), 101, 61)
    with torch.no_grad():
        model.seconds = 0.0
        targets = model(inputs).argmax(dim=1)
        model.seconds = seconds
    targets[::11] = (targets[::11] + 1) % 4
    batches = [(inputs[i : i + 40], targets[i : i + 40]) for i in range(0, 480, 40)]
    return Task(model.eval(), train=batches[:4], calib=batches[:2], valid=batches[4:8], test=batches[8:])
