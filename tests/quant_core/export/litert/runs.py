"""Files of LiteRT run in this process, for the tests of operators; what a fresh process gives is tested with `inspection`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.export.litert import library
from quant_core.export.litert.flatbuffer import Model
from quant_core.export.litert.program import float_model, float_program, program
from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(4, 6, 9, 10, generator=G)
LINES = torch.randn(4, 6, 11, generator=G)
TOKENS = torch.randn(4, 5, 12, generator=G)
ROWS = torch.randn(4, 12, generator=G)


class Of(nn.Module):
    """A network of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def outputs(data: bytes, x: Tensor) -> Tensor:
    """Return the output for the first example of a batch."""
    pytest.importorskip("ai_edge_litert")
    interpreter = library("interpreter").Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:1].numpy())
    interpreter.invoke()
    return torch.from_numpy(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def same(model: nn.Module, x: Tensor) -> None:
    """Hold the file of a float network against the network."""
    pytest.importorskip("ai_edge_litert")
    with torch.no_grad():
        wanted = model.eval()(x[:1])
    got = outputs(float_program(model, x).data, x)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert float((got.double() - wanted).abs().max()) <= 2e-5 * max(1.0, float(wanted.double().abs().max()))


def quantized(model: nn.Module, x: Tensor, text: str) -> Quantized:
    """Return a network quantized by one policy."""
    layers = trace(model.eval(), x)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return post_training(PostTraining(model, layers, [x], x), model, layers, policy, x)


def apart(network: Quantized, x: Tensor, **options: Any) -> float:
    """Return the largest difference of a file from the simulation on one of two examples, of its largest output.

    An activation between two codes may take the other one: of few bits that is much, and rare.
    """
    pytest.importorskip("ai_edge_litert")
    with torch.no_grad():
        wanted = network.simulation(x)[:4]
    data = program(network, **options).data
    rows = [float((outputs(data, x[i : i + 1]) - wanted[i : i + 1]).abs().max()) for i in range(4)]
    return sorted(rows)[1] / float(wanted.abs().max())


def codes(model: nn.Module, x: Tensor) -> list[str]:
    """Return the operations of a float network's file; no library is needed."""
    built: Model = float_model(model.eval(), x)
    return [operation.code for operation in built.operations]
