"""Population-based training: what it perturbs, that the seed decides, members whose training fails, and the saved outcome."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import InputError, Policy, parse_layer_policy
from quant_core.network.trace import quantizable
from quant_core.qat import QatConfig, QatError
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.loop import Trainer, TrainingRun, supervised
from quant_core.qat.population import PopulationConfig, train
from quant_core.qat.train import train as plain

CONFIG = QatConfig(method="ste", epochs=4, lr=0.03)
POPULATION = PopulationConfig(members=4, by="loss_valid")


def data(seed: int, count: int = 6) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(count * 16, 6, generator=torch.Generator().manual_seed(seed))
    return list(zip(inputs.split(16), (inputs[:, 0] * inputs[:, 1] > 0).long().split(16), strict=True))


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval()


def report(model: nn.Module, metrics: dict[str, float]) -> bool:
    with torch.no_grad():
        metrics["loss_valid"] = float(sum(F.cross_entropy(model(x), y) for x, y in data(7)))
    return False


def trained(
    config: QatConfig = CONFIG, population: PopulationConfig = POPULATION, **options: Any
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train the population; `options` are fields of `TrainingRun`."""
    model = net()
    policy = Policy(dict.fromkeys(quantizable(model), parse_layer_policy("weight=int3:channel,activation=int4:tensor:ema")))
    step = options.pop("step", supervised(F.cross_entropy))
    run = TrainingRun(data(1), step, config, **({"report": report} | options))
    return train(model, policy, run, population, calib=[data(1)[0][0]])


def state(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def test_the_best_of_a_deterministic_population_is_returned() -> None:
    model, history = trained()
    again, same = trained()
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3, 4]
    assert all(torch.equal(a, b) for a, b in zip(state(model), state(again), strict=True))
    assert [metrics["loss_valid"] for metrics in history] == [metrics["loss_valid"] for metrics in same]
    with torch.no_grad():
        assert float(sum(F.cross_entropy(model(x), y) for x, y in data(7))) == history[-1]["loss_valid"]
    other, _ = trained(replace(CONFIG, seed=1))
    assert not all(torch.equal(a, b) for a, b in zip(state(model), state(other), strict=True))
    policy = Policy(dict.fromkeys(quantizable(net()), parse_layer_policy("weight=int3:channel,activation=int4:tensor:ema")))
    _, alone = plain(net(), policy, TrainingRun(data(1), supervised(F.cross_entropy), CONFIG, report), calib=[data(1)[0][0]])
    assert history[-1]["loss_valid"] <= alone[-1]["loss_valid"], "the first member has the configuration's own values"


def test_the_worst_takes_over_state_and_perturbed_values(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[float, float, float, float]] = []
    original = Trainer.take_over

    def watched(self: Trainer, other: Trainer, lr_factor: float, distill: float) -> None:
        lr = other.optimizer.param_groups[0]["lr"]
        original(self, other, lr_factor, distill)
        taken.append((lr_factor, self.optimizer.param_groups[0]["lr"] / lr, self.config.distill, other.config.distill))
        assert all(torch.equal(a, b) for a, b in zip(state(self.model), state(other.model), strict=True))
        assert self.progress == other.progress
        assert self.model is not other.model

    monkeypatch.setattr(Trainer, "take_over", watched)
    trained(replace(CONFIG, schedule="constant"))
    assert len(taken) == 3, "after every epoch but the last, one of four"
    for factor, ratio, distill, before in taken:
        assert factor in (0.8, 1.2)
        assert ratio == pytest.approx(factor)
        assert any(distill == pytest.approx(min(1.0, before * change)) for change in (0.8, 1.2))
    taken.clear()
    trained(population=replace(POPULATION, every=2))
    assert len(taken) == 1


def test_a_taken_learning_rate_lasts_beside_the_schedule() -> None:
    def lrs(schedule: str) -> list[float]:
        config = replace(CONFIG, schedule=schedule)
        a, b = (Trainer(net().requires_grad_(True), TrainingRun(data(1), supervised(F.cross_entropy), config)) for _ in range(2))
        a.advance()
        b.take_over(a, 0.5, 0.0)
        return [trainer.advance()["lr"] for trainer in (a, b)]

    for schedule in ("constant", "cosine"):
        whole, half = lrs(schedule)
        assert half == pytest.approx(whole / 2)


def test_a_member_that_breaks_goes_on_from_another_and_all_of_them_are_an_error() -> None:
    calls = 0

    def breaks(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = supervised(F.cross_entropy)(model, batch)
        return loss * math.nan if calls == 8 else loss  # within the first epoch of the second member

    _, history = trained(step=breaks)
    assert len(history) == 4
    assert all(math.isfinite(metrics["loss"]) for metrics in history)
    with pytest.raises(QatError, match="the loss is nan"):
        trained(step=lambda model, batch: supervised(F.cross_entropy)(model, batch) * math.nan)


def test_the_outcome_is_kept(tmp_path: Path) -> None:
    checkpoint = CheckpointConfig(tmp_path / "run.pt")
    model, history = trained(checkpoint=checkpoint)
    again, same = trained(checkpoint=checkpoint, step=lambda _model, _batch: pytest.fail("trained again"))
    assert same == history
    assert all(torch.equal(a, b) for a, b in zip(state(model), state(again), strict=True))


def test_faults_are_named() -> None:
    with pytest.raises(InputError, match="members = 1, every = 0 given; 2 or more members and 1 or more epochs"):
        PopulationConfig(members=1, every=0)
    with pytest.raises(
        InputError, match="compared by 'loss_valid', which is not among what is reported: epoch, loss, lr, seconds, distill"
    ):
        trained(report=None)
