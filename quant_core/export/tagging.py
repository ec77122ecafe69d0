"""A network traced to a float ONNX graph in which every quantized weight and layer input passes through a node that names its layer."""

import copy
import io
import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from quant_core.export.symbolics import more_operators
from quant_core.network.forward import forward, with_first_input
from quant_core.util.errors import InputError
from quant_core.util.quiet import quiet_stdout

DOMAIN, WEIGHT, INPUT = "bitfront", "Weight", "Input"
TRACED_OPSET = 20


class _Tag(torch.autograd.Function):
    """The identity; in the graph a node of domain `bitfront`."""

    @staticmethod
    def forward(_context: Any, x: Tensor, _kind: str, _layer: str) -> Tensor:
        """Return a copy."""
        return x.clone()

    @staticmethod
    def symbolic(graph: Any, x: Any, kind: str, layer: str) -> Any:
        """Return the node."""
        return graph.op(f"{DOMAIN}::{kind}", x, layer_s=layer).setType(x.type())


def _tag(x: Tensor, kind: str, layer: str) -> Tensor:
    tagged: Tensor = _Tag.apply(x, kind, layer)  # type: ignore[no-untyped-call]
    return tagged


class _TaggedWeight(nn.Module):
    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, weight: Tensor) -> Tensor:
        return _tag(weight, WEIGHT, self.layer)


class _Flat(nn.Module):
    """A network called with the leaves of its inputs, one argument each."""

    def __init__(self, model: nn.Module, structure: TreeSpec) -> None:
        super().__init__()
        self.model, self.structure = model, structure

    def forward(self, *leaves: Tensor) -> Tensor:
        return forward(self.model, tree_unflatten(list(leaves), self.structure))


def traced(model: nn.Module, example: Any, weights: Collection[str], inputs: Collection[str]) -> onnx.ModelProto:
    """Return the graph of `model` (no layer in it quantized) for any batch size.

    Args:
        model: in eval mode; it is not touched.
        example: one batch of model inputs.
        weights, inputs: names of the layers whose weight, whose input is tagged.

    Raises:
        InputError: torch.onnx cannot map an operator of the network.
    """
    leaves, structure = tree_flatten(example)
    names = input_names(example)
    flat = _Flat(_tagged(model, weights, inputs), structure).eval()
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad(), _nowhere(), more_operators(TRACED_OPSET):
            warnings.simplefilter("ignore")  # of shapes kept as constants, and that this exporter is deprecated: the graph is checked later
            torch.onnx.export(
                flat,
                tuple(leaves),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=TRACED_OPSET,
                custom_opsets={DOMAIN: 1} if weights or inputs else None,
                input_names=names,
                output_names=["output"],
                dynamic_axes={name: {0: "batch"} for name in (*names, "output")},
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"ONNX cannot represent this network: {reason}. Use safetensors, or torchao or vllm for transformers.") from error
    return onnx.load_from_string(buffer.getvalue())


@contextmanager
def _nowhere() -> Iterator[None]:
    """Drop what the exporter prints: it shows whole graphs where it fails."""
    with Path(os.devnull).open("w") as nowhere, quiet_stdout(nowhere.fileno()):
        yield


def input_names(example: Any) -> list[str]:
    """Return the graph's names of the leaves of a batch: the keys of a dict, `input` for a single tensor, else `input0`, ..."""
    if isinstance(example, dict) and all(isinstance(value, Tensor) for value in example.values()):
        return [str(key) for key in example]
    count = len(tree_flatten(example)[0])
    return ["input"] if count == 1 else [f"input{i}" for i in range(count)]


def _tagged(model: nn.Module, weights: Collection[str], inputs: Collection[str]) -> nn.Module:
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for name in weights:
        parametrize.register_parametrization(modules[name], "weight", _TaggedWeight(name), unsafe=True)
    for name in inputs:
        modules[name].register_forward_pre_hook(_tag_input(name), with_kwargs=True)
    return model


def _tag_input(name: str) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return with_first_input(args, kwargs, lambda x: _tag(x, INPUT, name))

    return hook
