"""Random tensors, gradients, calibration statistics and specs for the tests of the QAT methods."""

from collections.abc import Callable

import torch
from torch import Tensor

from quant_core.network.statistics import TensorStatistics
from quant_core.qat.method import WeightQuantizer
from quant_core.spec.formats import text_examples


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(function: Callable[..., Tensor], incoming: Tensor, *leaves: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, incoming)


def seen(*batches: Tensor) -> TensorStatistics:
    statistics = TensorStatistics("layer")
    for batch in batches:
        statistics.update(batch)
    return statistics


def gradients_of(quantizer: WeightQuantizer, weight: Tensor, incoming: Tensor, *names: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the quantized weight and the gradients of the weight and of the named parameters."""
    leaf = weight.detach().clone().requires_grad_()
    value = quantizer(leaf)
    return value.detach(), torch.autograd.grad(value, (leaf, *(quantizer.get_parameter(name) for name in names)), incoming)


SPECS = (
    *text_examples(),
    "int3:tensor:affine",
    "int4:group16",
    "int4:vector16",
    "int8:channel:kl",
    "int4:channel:stochastic",
    "binary:none",
)
