"""Weights that were fitted to few calibration rows are not judged by those rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from search.evaluation.in_sample import independent, prediction_factors, rows_per_input
from search.evaluation.sensitivity import Method, Sensitivity
from spaces import rules
from spaces.space import Space

FORMATS = {"weight": tuple(parse(f"int{bits}:channel:gptq") for bits in (2, 8)), "activation": (parse("int8:tensor"),)}


def prepared() -> tuple[PostTraining, Space, list[torch.Tensor]]:
    """A convolution with 512 rows of 27 inputs, then a linear layer with 8 rows of 64 inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    inputs = [torch.randn(8, 3, 8, 8)]
    layers = trace(model, inputs[0])
    return PostTraining(model, layers, inputs, inputs[0]), rules.full(layers, FORMATS), inputs


def test_rows_are_counted_per_input_and_few_of_them_let_nearest_stand() -> None:
    engine, space, _ = prepared()
    assert [rows_per_input(layer, 8) for layer in engine.layers] == [512 / 27, 8 / 64]
    plain = independent(space, engine.layers, 8)
    roundings = {dimension.name: {spec.rounding for spec in dimension.choices} for dimension in plain.dimensions}
    assert roundings["0.weight"] == {"gptq"}
    assert roundings["4.weight"] == {"nearest"}
    factors = prediction_factors(plain, engine.layers, 8)
    expected = {"0.weight": (512 + 27) / (512 - 27), "4.weight": 1.0}
    for dimension, factor in zip(plain.dimensions, factors, strict=True):
        np.testing.assert_allclose(factor, expected.get(dimension.name, 1.0))
    assert independent(space, engine.layers, 800) == space


@pytest.mark.parametrize("method", ["forward", "gradient", "fisher", "auto"])
def test_a_layer_of_few_rows_does_not_look_free(method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    engine, space, inputs = prepared()
    last = [dimension.name for dimension in space.dimensions].index("4.weight")
    fitted = Sensitivity(engine, space, inputs, "key", method, 1)()[last][0]
    nearest = Sensitivity(engine, independent(space, engine.layers, 8), inputs, "other", method, 1)()[last][0]
    assert fitted == pytest.approx(nearest)
