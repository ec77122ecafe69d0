"""The network of the sweeps that are attacked: small, trained in a moment, and slow enough that an attack meets it at work."""

import time

import torch
from torch import Tensor, nn

from search.tasks.task import Task


class Slow(nn.Module):
    """Takes a tenth of a second."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, 3] of inputs [N, 12]."""
        time.sleep(0.1)
        logits: Tensor = self.body(x)
        return logits


def make() -> Task:
    """Return the task; its network is not trained, which the record does not mind."""
    torch.manual_seed(0)
    inputs, model = torch.randn(200, 12), Slow().eval()
    batch = (inputs, model.body(inputs).argmax(dim=1))
    return Task(model, train=[batch], calib=[batch], valid=[batch], test=[batch])
