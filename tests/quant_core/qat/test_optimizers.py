"""Optimisers and schedules by name, and the parameter groups that decay."""

from dataclasses import replace

import pytest

from quant_core import InputError
from quant_core.qat.optimizers import groups
from tests.quant_core.qat.loop_cases import CONFIG, run


def test_optimizers_and_schedules_of_others_are_taken_by_path() -> None:
    _, history = run(replace(CONFIG, optimizer="torch.optim:Adam", lr=0.005, schedule="constant"))
    assert [metrics["lr"] for metrics in history] == [0.005] * 3
    with pytest.raises(InputError, match="unknown optimizer 'adam'; known: adamw, sgd"):
        run(replace(CONFIG, optimizer="adam"))


def test_parameter_groups_decay_weights_and_pacts_clip_only() -> None:
    model, _ = run(replace(CONFIG, method="pact", epochs=1), text="weight=int4:channel,activation=int4:tensor")
    made = groups(model, replace(CONFIG, weight_decay=0.1, step_lr=0.5))
    sizes = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in made]
    assert sizes == [(3, 0.05, 0.1), (4, 0.05, 0.0), (3, 0.025, 0.1)]
