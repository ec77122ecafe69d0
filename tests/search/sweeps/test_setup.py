"""What a sweep needs: costs as the cost table has them, limits that can be kept, and the key of kept training."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from quant_core.util.errors import InputError
from search import tasks
from search.config.experiment import Experiment
from search.sweeps.fingerprints import task_probe, training_key
from search.sweeps.setup import Setup, population, prepare
from search.tasks.task import Batch, Task

Prepare = Callable[..., Setup]


def key_of(setup: Setup) -> str:
    section = setup.experiment.evaluate
    return training_key(setup.task, setup.fingerprints, section, population(setup.experiment), task_probe(setup.task))


def experiment(**sections: object) -> Experiment:
    usual = {
        "task": {"name": "digits"},
        "space": {"weight": ["int4:tensor", "int8:tensor"], "activation": ["int4:tensor", "int8:tensor"]},
        "device": {"name": "counts"},
    }
    return Experiment.model_validate(usual | sections)


def batches(seed: int) -> list[Batch]:
    return [(torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)), torch.zeros(8, dtype=torch.int64))]


def small_task() -> Task:
    """A task of two linear layers, whose activations take 38 and 34 elements."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    return Task(model, batches(1), batches(2), batches(3), batches(4))


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Return what prepares an experiment on a small task, or on `task`."""

    def make(task: Task | None = None, **sections: object) -> Setup:
        monkeypatch.setattr(tasks, "load", lambda _name, _options: task or small_task())
        return prepare(experiment(**sections))

    return make


@pytest.mark.parametrize(
    ("metric", "least"),
    [
        ("peak_activation_bytes", 19),  # the larger of 38 and 34 elements of 4 bits
        ("weight_bytes", 136),  # 6 x 32 and 32 x 2 weights of 4 bits, two scales of 4 bytes
    ],
)
def test_a_budget_below_the_cheapest_policy_is_refused(prepared: Prepare, metric: str, least: int) -> None:
    with pytest.raises(
        InputError, match=rf"no policy can meet the budget {metric} <= {least - 1}: the smallest in this space is {least}\."
    ):
        prepared(device={"name": "counts", "budget": {metric: least - 1}})
    assert prepared(device={"name": "counts", "budget": {metric: least}}).limits == {metric: least}


def test_a_budget_of_the_model_counts_what_stays_in_float(prepared: Prepare) -> None:
    """256 weights and 34 biases, in float 1,160 bytes; the biases, 136 bytes, stay, and `weight_bytes` gets the rest."""
    setup = prepared(device={"name": "counts", "budget": {"model_bytes": "0.5 of float"}})
    assert setup.limits == {"weight_bytes": 0.5 * 1160 - 136}
    assert prepared(device={"name": "counts", "budget": {"model_bytes": 500}}).limits == {"weight_bytes": 364}
    both = {"model_bytes": 500, "weight_bytes": "0.25 of float"}
    assert prepared(device={"name": "counts", "budget": both}).limits == {"weight_bytes": 256}
    assert str(setup.coverage) == "the policy covers 88.3 % of 1.16 kB of float parameters; left in float: 136 B (biases)"
    with pytest.raises(InputError, match=r"weight_bytes <= 64: .* 136 bytes of parameters stay in float: biases\."):
        prepared(device={"name": "counts", "budget": {"model_bytes": 200}})
    with pytest.raises(InputError, match="model_bytes"):
        prepared(device={"name": "counts", "objectives": ["error", "model_bytes"]})


def test_the_key_of_kept_training_changes_with_all_that_training_depends_on(prepared: Prepare) -> None:
    trained = {"fidelity": "qat", "epochs": 2}
    task = small_task()
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    population = {"scheduler": "pbt"}
    setups = {
        "plain": prepared(evaluate=trained),
        "weights": prepared(replace(task, model=other), evaluate=trained),
        "training data": prepared(replace(task, train=batches(5)), evaluate=trained),
        "calibration data": prepared(replace(task, calib=batches(5)), evaluate=trained),
        "validation data": prepared(replace(task, valid=batches(5)), evaluate=trained),
        "epochs": prepared(evaluate=trained | {"epochs": 3}),
        "calibration size": prepared(evaluate=trained | {"calib": 4}),
        "population": prepared(evaluate=trained, run=population),
    }
    keys = {name: key_of(setup) for name, setup in setups.items()}
    assert key_of(prepared(evaluate=trained)) == keys["plain"]
    assert [name for name, key in keys.items() if name != "plain" and key == keys["plain"]] == []
    assert key_of(prepared()) == "", "nothing is trained"
