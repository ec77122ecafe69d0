"""Which parts of the calibration examples are learned from, and which judge; few steps decide the roundings."""

from typing import Any

import pytest
import torch
from torch import nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct import ReconstructConfig, learn, run
from quant_core.reconstruct.learn import FEWEST, Queue, judging, learning
from quant_core.spec.policy import Policy, parse_layer_policy


@pytest.mark.parametrize("count", [FEWEST, FEWEST + 3, 100])
def test_parts_that_judge_are_not_learned_from(count: int) -> None:
    judges, learners = set(judging(count)), set(learning(count))
    assert len(judges) == count // 4
    assert not judges & learners
    assert judges | learners == set(range(count))
    queue = Queue(learning(count), 0)
    assert set(queue.take(len(learners))) == set(queue.take(len(learners))) == learners


@pytest.mark.parametrize("count", [1, 2, FEWEST - 1])
def test_few_parts_do_both(count: int) -> None:
    assert list(judging(count)) == learning(count) == list(range(count))


def undecided(monkeypatch: pytest.MonkeyPatch, rise: float) -> float:
    """Return the share of the weights that are soft still after 60 steps."""
    left = []

    def watched(stretch: Any, soft: Any, *rest: Any) -> None:
        learn.learn(stretch, soft, *rest)
        free = [(weight._h() - 0.5).abs()[weight._room > 0] for weight in soft.values()]
        left.append(float((torch.cat(free) < 0.45).float().mean()))

    monkeypatch.setattr(run, "learn", watched)
    monkeypatch.setattr(learn, "RISE", rise)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 8)).eval()
        x = torch.randn(64, 12)
    layers = trace(model, x)
    policy = Policy({layer.name: parse_layer_policy("weight=int3:channel:mse,activation=float") for layer in layers})
    config = ReconstructConfig(steps=60, lr=0.1, loss="mse", whole=0)
    run.reconstruct(PostTraining(model, layers, [x], x), model, policy, [x], config)
    return max(left)


def test_few_steps_decide_the_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert undecided(monkeypatch, learn.RISE) < 0.7 * undecided(monkeypatch, 1.0)
