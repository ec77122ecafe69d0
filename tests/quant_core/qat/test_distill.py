"""Distillation: the student approaches the teacher, by the loss of Hinton et al."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from quant_core.qat.distill import softened
from tests.quant_core.qat.loop_cases import CONFIG, data, net, run, same


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


def test_calls_of_a_report_are_not_distilled() -> None:
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
