"""The training loop: it learns, is deterministic, leaves others' random numbers alone, resumes bit for bit, and says where it broke."""

import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from quant_core import InputError, Policy, parse_layer_policy
from quant_core.network.trace import quantizable
from quant_core.qat import QatConfig, QatError
from quant_core.qat.batch_norm import reestimate
from quant_core.qat.distill import softened
from quant_core.qat.loop import CheckpointConfig, supervised
from quant_core.qat.optimizers import groups
from quant_core.qat.prepare import float_weights, input_quantizers
from quant_core.qat.train import train

ROOT = Path(__file__).parent.parent.parent
TEXT = "weight=int3:channel:mse,activation=int4:tensor:ema"
CONFIG = QatConfig(method="lsq", epochs=3, lr=0.05)
STEP = supervised(F.cross_entropy)
Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Two convolutions with batch norm, dropout, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.dropout = nn.Conv2d(8, 8, 3, stride=2), nn.Dropout(0.1)
        self.last = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        logits: Tensor = self.last(self.dropout(x.flatten(1)))
        return logits


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def data(count: int = 10) -> list[Batch]:
    """Batches of noise with a bright quadrant; the label says which."""
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.rand(count * 16, 1, 8, 8, generator=generator), torch.randint(0, 4, (count * 16,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = divmod(label, 2)
        image[0, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 0.7
    return list(zip(images.split(16), labels.split(16), strict=True))


def policy(text: str = TEXT) -> Policy:
    return Policy(dict.fromkeys(quantizable(net()), parse_layer_policy(text)))


def run(config: QatConfig = CONFIG, batches: Any = None, **options: Any) -> tuple[nn.Module, list[dict[str, float]]]:
    batches = data() if batches is None else batches
    text = options.pop("text", TEXT)
    return train(net(), policy(text), batches, options.pop("step", STEP), config, calib=[data()[0][0]], **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def test_training_learns_and_reports_every_epoch() -> None:
    reported: list[dict[str, float]] = []
    modes = []

    def report(model: nn.Module, metrics: dict[str, float]) -> bool:
        modes.append(model.training)
        metrics["mine"] = 7.0
        reported.append(dict(metrics))
        return False

    model, history = run(report=report)
    assert [each["epoch"] for each in history] == [1, 2, 3]
    assert history == reported
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert 0.05 > history[0]["lr"] > history[1]["lr"] > history[2]["lr"] >= 0
    assert not any(modes)
    assert not model.training


def test_the_report_may_stop_the_training() -> None:
    _, history = run(report=lambda _model, metrics: metrics["epoch"] == 2)
    assert len(history) == 2


def test_the_seed_alone_decides() -> None:
    first, _ = run()
    torch.manual_seed(99)
    again, _ = run()
    other, _ = run(replace(CONFIG, seed=1))
    assert same(first, again)
    assert not same(first, other)


def test_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    run(replace(CONFIG, epochs=1))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Examples with noise from torch's, numpy's and Python's generators: everything that augmentation may use."""

    def __init__(self) -> None:
        self.images, self.labels = (torch.cat(part) for part in zip(*data(6), strict=True))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        return self.images[index] + 0.01 * noise, self.labels[index]


class Interrupted(Exception):  # noqa: N818
    """Stands for a killed process."""


class Failing:
    """Batches that raise after so many have been taken in all."""

    def __init__(self, batches: Any, after: int) -> None:
        self.batches, self.left = batches, after

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            if not self.left:
                raise Interrupted
            self.left -= 1
            yield batch


@pytest.mark.parametrize("after", [3, 6, 10])
@pytest.mark.parametrize("method", ["lsq", "ste"])
def test_an_interrupted_run_goes_on_bit_for_bit(after: int, method: str, tmp_path: Path) -> None:
    """6 batches an epoch, a checkpoint after every second: stopped inside an epoch, at its end, and in the last."""
    loader: DataLoader[Any] = DataLoader(Noisy(), batch_size=16, shuffle=True)
    config = replace(CONFIG, method=method, epochs=2, freeze_after=0.5, clip=1.0)
    straight, history = run(config, loader, text="weight=int3:channel:stochastic,activation=int4:tensor:ema")
    saving = CheckpointConfig(tmp_path / "run.pt", every=2)
    options: dict[str, Any] = {"saving": saving, "text": "weight=int3:channel:stochastic,activation=int4:tensor:ema"}
    with pytest.raises(Interrupted):
        run(config, Failing(loader, after), **options)
    assert saving.path.exists()
    torch.manual_seed(1234)
    resumed, again = run(config, loader, **options)
    assert same(straight, resumed)
    assert [each["loss"] for each in again] == [each["loss"] for each in history]
    finished, _ = run(config, Failing(loader, 0), **options)  # a finished run takes no more batches
    assert same(straight, finished)


CHILD = f"""
import os, signal, sys, torch
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests/quant_core")!r}]
import test_qat_loop as t
from pathlib import Path

path, moment, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
passed, write = dict.fromkeys(("step", "save", "report"), 0), Path.write_bytes

def pass_by(here):
    passed[here] += 1
    return here == moment and passed[here] > after

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def step(model, batch):
    return die() if pass_by("step") else t.STEP(model, batch)

def report(model, metrics):
    return die() if pass_by("report") else False

def half(file, data):
    if pass_by("save"):
        write(file, data[: len(data) // 2])
        die()
    write(file, data)

Path.write_bytes = half
model, _ = t.run(step=step, report=report, saving=t.CheckpointConfig(path, every=1))
torch.save(model.state_dict(), sys.argv[1] + ".done")
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """One process trains uninterrupted, others are killed in a step, halfway through a save and at an epoch's end; 10 batches an epoch."""

    def child(name: str, moment: str = "never", after: int = 0) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, "-c", CHILD, str(tmp_path / name), moment, str(after)]
        return subprocess.run(arguments, env=environment, check=False).returncode

    for moment, after in (("step", 6), ("save", 7), ("report", 0)):
        assert child("killed.pt", moment, after) == -signal.SIGKILL
    assert not (tmp_path / "killed.pt.done").exists()
    stands = torch.load(tmp_path / "killed.pt", weights_only=True)["state"]["progress"]
    assert (stands["epoch"], stands["position"]) == (1, 9)
    assert child("killed.pt") == child("straight.pt") == 0
    resumed, straight = (torch.load(tmp_path / f"{name}.pt.done", weights_only=True) for name in ("killed", "straight"))
    assert list(resumed) == list(straight)
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    saving = CheckpointConfig(tmp_path / "run.pt")
    run(replace(CONFIG, epochs=1), saving=saving)
    with pytest.raises(InputError, match=r"is the checkpoint of another run .*'seed': 0.*this is .*'seed': 3"):
        run(replace(CONFIG, epochs=1, seed=3), saving=saving)
    saving.path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no checkpoint of quantization-aware training"):
        run(replace(CONFIG, epochs=1), saving=saving)
    torch.save({"a": 1}, saving.path)
    with pytest.raises(InputError, match=r"is no checkpoint of bitfront\.qat/1"):
        run(replace(CONFIG, epochs=1), saving=saving)


class Breaking(nn.Module):
    """Passes its input on, times infinity from the fifth call in train mode on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * (math.inf if self.calls >= 5 else 1.0)


def test_a_loss_that_is_not_finite_names_the_first_layer() -> None:
    model = net()
    model.dropout = Breaking()
    with pytest.raises(QatError, match=r"epoch 1, batch 5: the loss is nan; layer 'dropout': its output is not finite\. Try a lower lr"):
        train(model, policy(), data(), STEP, CONFIG, calib=[data()[0][0]])


def test_weights_that_are_not_finite_are_named() -> None:
    def step(model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            model.get_submodule("second").parametrizations.weight.original.data.fill_(math.nan)
        return STEP(model, batch)

    for text in (TEXT, "weight=mx6"):
        with pytest.raises(QatError, match=r"batch 1: .*layer 'second': its parameters are not finite"):
            run(replace(CONFIG, method="ste"), step=step, text=text)


def test_a_non_finite_loss_of_finite_outputs_is_told_apart() -> None:
    with pytest.raises(QatError, match="every layer's output is finite, the loss itself is not"):
        run(step=lambda model, batch: STEP(model, batch) * math.inf)


def test_non_finite_inputs_are_named() -> None:
    batches = data()
    batches[4][0][0] = math.nan
    with pytest.raises(QatError, match="layer 'first': its input is not finite"):
        run(batches=batches)


@pytest.mark.parametrize("distill", [0.5, 1.0])
def test_distillation_draws_the_student_to_the_teacher(distill: float) -> None:
    teacher = net()
    inputs = torch.cat([images for images, _ in data()])

    def gap(model: nn.Module) -> float:
        with torch.no_grad():
            return float(softened(model(inputs), teacher(inputs), 1.0))

    plain, _ = run()
    taught, _ = run(replace(CONFIG, distill=distill))
    assert gap(taught) < 0.5 * gap(plain)


def test_what_a_report_computes_is_no_lesson() -> None:
    def report(model: nn.Module, _metrics: dict[str, float]) -> bool:
        with torch.no_grad():
            for images, _ in data():
                model(1 - images)
        return False

    config = replace(CONFIG, distill=0.5)
    assert same(run(config, report=report)[0], run(config)[0])


def test_softened_is_the_divergence_of_hinton() -> None:
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    expected = 9 * F.kl_div((student / 3).log_softmax(1), (teacher / 3).softmax(1), reduction="batchmean")
    assert float(softened(student, teacher, 3.0)) == pytest.approx(float(expected), rel=1e-5)
    maps = student.reshape(1, 6, 5, 1), teacher.reshape(1, 6, 5, 1)
    aim = 9 * F.kl_div((maps[0] / 3).log_softmax(1), (maps[1] / 3).softmax(1), reduction="sum") / 5
    assert float(softened(*maps, 3.0)) == pytest.approx(float(aim), rel=1e-5)


def test_batch_norm_and_ranges_stand_still_in_the_last_epochs() -> None:
    seen: list[tuple[Tensor, float]] = []

    def report(model: nn.Module, _metrics: dict[str, float]) -> bool:
        quantizer = input_quantizers(model)["last"]
        seen.append((model.get_buffer("norm.running_mean").clone(), float(quantizer.get_buffer("high"))))
        return False

    run(replace(CONFIG, method="ste", epochs=4, freeze_after=0.5), report=report)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[2][0], seen[3][0])
    assert seen[0][1] != seen[1][1]
    assert seen[1][1] == seen[2][1] == seen[3][1]


def test_statistics_are_taken_anew_as_plain_averages() -> None:
    model = net()
    batches = [images for images, _ in data(4)]
    reestimate(model, model, batches)
    outputs = [model.get_submodule("first")(x) for x in batches]
    torch.testing.assert_close(model.get_buffer("norm.running_mean"), torch.stack([y.mean(dim=(0, 2, 3)) for y in outputs]).mean(dim=0))
    torch.testing.assert_close(model.get_buffer("norm.running_var"), torch.stack([y.var(dim=(0, 2, 3)) for y in outputs]).mean(dim=0))
    assert model.get_submodule("norm").momentum == 0.1
    assert not model.training


def test_batch_norm_may_be_folded_first() -> None:
    model, history = run(replace(CONFIG, batch_norm="fold"))
    assert isinstance(model.get_submodule("norm"), nn.Identity)
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize(
    "config", [replace(CONFIG, autocast="bfloat16"), replace(CONFIG, clip=1.0), replace(CONFIG, optimizer="adamw", lr=0.01)]
)
def test_other_ways_to_train_learn_too(config: QatConfig) -> None:
    model, history = run(config)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_optimizers_and_schedules_of_others_are_taken_by_path() -> None:
    _, history = run(replace(CONFIG, optimizer="torch.optim:Adam", lr=0.005, schedule="constant"))
    assert [each["lr"] for each in history] == [0.005] * 3
    with pytest.raises(InputError, match="unknown optimizer 'adam'; known: adamw, sgd"):
        run(replace(CONFIG, optimizer="adam"))


def test_parameter_groups_decay_weights_and_pacts_clip_only() -> None:
    model, _ = run(replace(CONFIG, method="pact", epochs=1), text="weight=int4:channel,activation=int4:tensor")
    made = groups(model, replace(CONFIG, weight_decay=0.1, step_lr=0.5))
    sizes = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in made]
    assert sizes == [(3, 0.05, 0.1), (4, 0.05, 0.0), (3, 0.025, 0.1)]


def test_training_starts_from_given_weights() -> None:
    trained, _ = run()
    start = float_weights(trained)
    model, _ = run(replace(CONFIG, epochs=1, lr=1e-12), start=start)
    for key, weight in float_weights(model).items():
        if key.endswith("weight"):
            torch.testing.assert_close(weight, start[key])
    with pytest.raises(InputError, match="weights to start from are of another network"):
        run(start={"head.weight": torch.ones(2)})


def test_a_network_made_for_inference_is_trained_and_frozen_parts_of_others_are_not() -> None:
    frozen = net().requires_grad_(False)
    trained, _ = train(frozen, policy(), data(), STEP, CONFIG, calib=[data()[0][0]])
    assert not torch.equal(float_weights(trained)["last.weight"], frozen.get_parameter("last.weight"))
    part = net()
    part.get_submodule("first").requires_grad_(False)
    trained, _ = train(part, policy(), data(), STEP, CONFIG, calib=[data()[0][0]])
    assert torch.equal(float_weights(trained)["first.weight"], part.get_parameter("first.weight"))
    assert not torch.equal(float_weights(trained)["last.weight"], part.get_parameter("last.weight"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"epochs": 0}, r"epochs = 0 given; 1 or more is needed"),
        ({"lr": -1.0, "distill": 2.0}, r"lr = -1.0 given; a positive number is needed; distill = 2.0 given"),
        ({"method": "lsqq"}, r"unknown QAT method 'lsqq'.*Did you mean 'lsq'"),
        ({"batch_norm": "keep"}, "batch_norm = 'keep' given; freeze or fold is needed"),
        ({"autocast": "int8"}, "autocast = 'int8' given"),
    ],
)
def test_faults_of_a_configuration_are_told(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QatConfig(**fault)


def test_what_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="the training split is empty"):
        run(batches=[])
    with pytest.raises(InputError, match="the calibration split is empty"):
        train(net(), policy(), data(), STEP, CONFIG, calib=[])
