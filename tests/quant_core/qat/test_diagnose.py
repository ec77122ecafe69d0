"""A loss that is not finite names the layer where the values first broke."""

import math
from dataclasses import replace

import pytest
from torch import Tensor, nn

from quant_core.qat import QatError
from quant_core.qat.loop import TrainingRun
from quant_core.qat.train import train
from tests.quant_core.qat.loop_cases import CONFIG, STEP, TEXT, Batch, data, net, policy, run


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
        train(model, policy(), TrainingRun(data(), STEP, CONFIG), calib=[data()[0][0]])


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
