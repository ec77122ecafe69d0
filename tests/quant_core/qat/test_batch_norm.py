"""Batch norm statistics and input ranges while quantized weights train."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from quant_core.qat.batch_norm import reestimate
from quant_core.qat.prepare import input_quantizers
from tests.quant_core.qat.loop_cases import CONFIG, data, net, run


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
