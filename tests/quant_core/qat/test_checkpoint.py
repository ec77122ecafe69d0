"""Interrupted training resumes bit for bit, and the checkpoint of another run is refused."""

import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from quant_core import InputError
from quant_core.qat import checkpoint
from quant_core.qat.checkpoint import CheckpointConfig
from tests.forked import ran
from tests.quant_core.qat.loop_cases import CONFIG, data, run, same

ROOT = Path(__file__).parents[3]


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
    options: dict[str, Any] = {"checkpoint": saving, "text": "weight=int3:channel:stochastic,activation=int4:tensor:ema"}
    with pytest.raises(Interrupted):
        run(config, Failing(loader, after), **options)
    assert saving.path.exists()
    torch.manual_seed(1234)
    resumed, again = run(config, loader, **options)
    assert same(straight, resumed)
    assert [metrics["loss"] for metrics in again] == [metrics["loss"] for metrics in history]
    finished, _ = run(config, Failing(loader, 0), **options)  # a finished run takes no more batches
    assert same(straight, finished)


CHILD = f"""
import os, signal, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from tests.quant_core.qat import loop_cases as t
from quant_core.qat.checkpoint import CheckpointConfig
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
model, _ = t.run(step=step, report=report, checkpoint=CheckpointConfig(path, every=1))
torch.save(model.state_dict(), sys.argv[1] + ".done")
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """One process trains uninterrupted, others are killed in a step, halfway through a save and at an epoch's end; 10 batches an epoch."""

    def child(name: str, moment: str = "never", after: int = 0) -> int:
        return ran(str(tmp_path / name), moment, str(after), script=CHILD).returncode

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
    run(replace(CONFIG, epochs=1), checkpoint=saving)
    with pytest.raises(InputError, match=r"is the checkpoint of another run .*'seed': 0.*this is .*'seed': 3"):
        run(replace(CONFIG, epochs=1, seed=3), checkpoint=saving)
    saving.path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no checkpoint of quantization-aware training"):
        run(replace(CONFIG, epochs=1), checkpoint=saving)
    torch.save({"a": 1}, saving.path)
    with pytest.raises(InputError, match=r"is no checkpoint of bitfront\.qat/2"):
        run(replace(CONFIG, epochs=1), checkpoint=saving)


def rewritten(path: Path, change: str) -> None:
    """Damage a checkpoint; "shapes" and "nan" keep its hash right."""
    content = torch.load(path, weights_only=True)
    model = content["state"]["model"]
    name = next(name for name in model if name.endswith("original"))
    model[name] = torch.zeros(2, 3) if change == "shapes" else torch.full_like(model[name], float("nan"))
    checkpoint.save(path, content["identity"], content["state"])


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "flipped", "object", "shapes", "nan", "other run"])
def test_a_damaged_file_of_the_cache_means_training_again(damage: str, tmp_path: Path) -> None:
    saving, config = CheckpointConfig(tmp_path / "run.pt", cached=True), replace(CONFIG, epochs=1)
    fresh, history = run(config, checkpoint=saving)
    whole = saving.path.read_bytes()
    middle = len(whole) // 2
    texts = {"cut": whole[:middle], "zeros": bytes(len(whole)), "empty": b""}
    texts["flipped"] = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    if damage == "object":
        torch.save({"a": Path}, saving.path)
    elif damage == "other run":
        run(replace(config, seed=3), checkpoint=replace(saving, path=tmp_path / "other.pt"))
        (tmp_path / "other.pt").replace(saving.path)
    elif damage in texts:
        saving.path.write_bytes(texts[damage])
    else:
        rewritten(saving.path, damage)
    again, anew = run(config, checkpoint=saving)
    assert same(fresh, again)
    assert [metrics["loss"] for metrics in anew] == [metrics["loss"] for metrics in history]
    assert checkpoint.load(saving.path, torch.load(saving.path, weights_only=True)["identity"]) is not None
