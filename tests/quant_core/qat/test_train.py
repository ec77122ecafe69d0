"""Training of one policy: the weights it starts from, frozen parts, and faults of the configuration."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from quant_core import InputError
from quant_core.qat import QatConfig
from quant_core.qat.loop import TrainingRun
from quant_core.qat.prepare import float_weights
from quant_core.qat.train import train
from tests.quant_core.qat.loop_cases import CONFIG, STEP, data, net, policy, run


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
    trained, _ = train(frozen, policy(), TrainingRun(data(), STEP, CONFIG), calib=[data()[0][0]])
    assert not torch.equal(float_weights(trained)["last.weight"], frozen.get_parameter("last.weight"))
    part = net()
    part.get_submodule("first").requires_grad_(False)
    trained, _ = train(part, policy(), TrainingRun(data(), STEP, CONFIG), calib=[data()[0][0]])
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


def test_empty_splits_are_refused() -> None:
    with pytest.raises(InputError, match="the training split is empty"):
        run(batches=[])
    with pytest.raises(InputError, match="the calibration split is empty"):
        train(net(), policy(), TrainingRun(data(), STEP, CONFIG), calib=[])
