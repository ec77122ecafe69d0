"""A small trained task as an object, and a sweep of it that is run once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitfront
from quant_core.util.rng import private

KEYWORDS: dict[str, Any] = {
    "weight": ["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"],
    "activation": ["int4:tensor:mse", "int8:tensor:mse"],
    "device": "generic-cpu",
    "trials": 12,
    "searcher": "random",
    "log": "none",
}


def make_task(seed: int = 0) -> bitfront.Task:
    """Return a trained network of three layers and its data."""
    with private():
        torch.manual_seed(seed)
        inputs = torch.randn(900, 12)
        targets = (inputs[:, :4].sum(dim=1) > 0).long() + (inputs[:, 4:8].sum(dim=1) > 0).long()
        model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[:500]), targets[:500]).backward()
            optimizer.step()
    splits = {
        name: [(inputs[a:b], targets[a:b])]
        for name, (a, b) in {"train": (0, 500), "calib": (0, 128), "valid": (500, 700), "test": (700, 900)}.items()
    }
    return bitfront.Task(model.eval(), **splits)


@pytest.fixture(scope="session")
def task() -> bitfront.Task:
    """Return the task; nothing may change it."""
    return make_task()


@pytest.fixture(scope="session")
def task_maker() -> Callable[..., bitfront.Task]:
    """Return the function that makes the task."""
    return make_task


@pytest.fixture(scope="session")
def keywords() -> dict[str, Any]:
    """Return keyword arguments of a small sweep, without a record."""
    return dict(KEYWORDS, record=None)


@pytest.fixture(scope="session")
def sweep(task: bitfront.Task) -> bitfront.Sweep:
    """Return a finished sweep that lives in memory."""
    return bitfront.sweep(task, **KEYWORDS, record=None)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, without MLflow's variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
