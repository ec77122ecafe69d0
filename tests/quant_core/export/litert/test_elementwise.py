"""Operators that compute element by element, and norms, against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from quant_core.export.litert.program import float_model
from quant_core.util.errors import InputError
from tests.quant_core.export.litert.runs import IMAGES, ROWS, TOKENS, Of, codes, same

ACTIVATIONS = (
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(),
    nn.Sigmoid(),
    nn.SiLU(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.ELU(),
    nn.LeakyReLU(0.2),
    nn.Softplus(),
    nn.Mish(),
    nn.Tanh(),
    nn.Softsign(),
    nn.LogSigmoid(),
)
FUNCTIONS = {
    "clamp": lambda x: x.clamp(0.2, 0.7),
    "clamp from below": lambda x: x.clamp(min=0.2),
    "clamp to one": lambda x: (3 * x - 1).clamp(0, 1),
    "a constant per channel": lambda x: x + torch.arange(6.0)[:, None, None],
    "a constant first": lambda x: 1 - x,
    "a mean per channel": lambda x: x * x.mean((2, 3), keepdim=True),
    "a quotient": lambda x: x / (x.sum(1, keepdim=True) + 1),
    "powers": lambda x: x**2 + x**0.5 + x**3,
    "roots": lambda x: torch.rsqrt(x + 1) + torch.reciprocal(x + 10) + torch.log(x + 1),
    "rounding": lambda x: torch.floor(5 * x) + torch.round(5 * x) + torch.ceil(5 * x) + torch.sign(x - 0.5) + torch.abs(-x),
    "waves": lambda x: torch.sin(x) + torch.cos(x) + torch.exp(x),
    "the larger one": lambda x: torch.maximum(x, 1 - x) + torch.minimum(x, 1 - x),
    "comparisons": lambda x: (
        (x >= 0.5).float() + (x == x.round()).float() + ((x > 0.2) & (x < 0.6) | ~(x > 0.1)).float() + (x <= 0.3).float()
    ),
    "not a number": lambda x: torch.where(torch.isnan(x / x.floor()), 0.0, x),
}
NORMS = (
    (nn.BatchNorm2d(6), IMAGES),
    (nn.BatchNorm1d(12), ROWS),
    (nn.LayerNorm(12), TOKENS),
    (nn.LayerNorm((9, 10)), IMAGES),
    (nn.GroupNorm(2, 6), IMAGES),
    (nn.InstanceNorm2d(6, affine=True), IMAGES),
    (nn.PReLU(6), IMAGES),
)


@pytest.mark.parametrize("module", ACTIVATIONS, ids=repr)
def test_activation_functions(module: nn.Module) -> None:
    same(module, 8 * ROWS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic(name: str) -> None:
    same(Of(FUNCTIONS[name]), IMAGES)


@pytest.mark.parametrize(("module", "x"), NORMS, ids=repr)
def test_norms(module: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 2.0)
    same(module, x)


def test_norms_over_channels_need_no_transposition() -> None:
    def norm(x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)

    model = nn.Sequential(nn.Conv2d(6, 4, 1), Of(norm), nn.Conv2d(4, 3, 1))
    assert codes(model, IMAGES).count("TRANSPOSE") == 2, "of the input and of the output alone"
    same(model, IMAGES)


def test_what_litert_lacks_is_one_sentence() -> None:
    with pytest.raises(
        InputError, match=r"^LiteRT cannot represent this network: it has no operator for ONNX's Erf\. Use onnx or openvino\.$"
    ):
        float_model(Of(torch.erf), ROWS)
    with pytest.raises(InputError, match=r"its ELU has an alpha of 1 alone \(ONNX's Elu\)\. Use onnx or openvino\.$"):
        float_model(nn.ELU(0.5), ROWS)
