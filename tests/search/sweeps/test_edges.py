"""One choice per slot, one layer, every layer fixed: a sweep of one policy, by every searcher, from start to export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitfront
from bitfront.results import Sweep
from search.report.page import sweep_page
from search.searchers import SEARCHERS

ONE = {"weight": ["int8:channel:mse"], "activation": ["int8:tensor:mse"]}
TWO = {"weight": ["int4:channel:mse", "int8:channel:mse"], "activation": ["int8:tensor:mse"]}
FIXED = {**TWO, "rules": [{"fix": "*", "weight": "int8:channel:mse"}]}
SPACES: dict[str, tuple[dict[str, Any], int, int]] = {
    "one choice": (ONE, 2, 1),
    "one choice, one layer": (ONE, 1, 1),
    "two choices, one layer": (TWO, 1, 2),
    "all layers fixed": (FIXED, 2, 1),
}
"""Choices, layers, policies."""
EVERY_SPACE = pytest.mark.parametrize("space", SPACES)


def task(layers: int) -> bitfront.Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Linear(6, 6), nn.ReLU()] * (layers - 1)
        model = nn.Sequential(*body, nn.Linear(6, 3)).eval()
        inputs = torch.randn(90, 6)
    targets = model(inputs).argmax(dim=1)
    calib, valid, test = ((inputs[a : a + 30], targets[a : a + 30]) for a in (0, 30, 60))
    return bitfront.Task(model, train=[calib], calib=[calib], valid=[valid], test=[test])


def swept(space: str, searcher: str, **keywords: Any) -> Sweep:
    choices, layers, _ = SPACES[space]
    usual = {"device": "generic-cpu", "trials": 4, "record": None, "log": "none", "threads": 0}
    return bitfront.sweep(task(layers), searcher=searcher, **choices, **(usual | keywords))


@EVERY_SPACE
@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("budget", [None, {"weight_bytes": "1.0 of int8"}], ids=["free", "limited"])
def test_every_searcher_sweeps_a_space_of_one_policy(space: str, searcher: str, budget: dict[str, str] | None) -> None:
    sweep = swept(space, searcher, budget=budget)
    policies = {trial.policy for trial in sweep.record.trials}
    assert sweep.status == "finished"
    assert len(policies) == SPACES[space][2]
    assert all(trial.result.ok for trial in sweep.record.trials)
    assert set(sweep.front()["kind"]) >= {"front", "float"}
    assert sweep.best(max_drop=100).policy in policies


@EVERY_SPACE
def test_a_recorded_sweep_of_one_policy_reports_resumes_and_exports(space: str, store_uri: str, tmp_path: Path) -> None:
    sweep = swept(space, "random", record=store_uri, name="edge")
    again = bitfront.load("edge", uri=store_uri, task=task(SPACES[space][1])).resume(log="none")
    assert again.record.trials == sweep.record.trials
    for figure in ("front", "bits", "hypervolume"):
        sweep.plot(figure)
    assert "bitfront sweep edge" in sweep_page(sweep.record)
    assert set(sweep.export("knee", tmp_path / "out", formats=["safetensors", "onnx", "c-array"])) >= {"safetensors", "policy", "card"}
