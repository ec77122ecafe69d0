"""A network traced to a float ONNX graph in which every quantized weight and layer input passes through a node that names its layer."""

import io
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from quant_core.export.passes import explicit_pads, holds_bfloat16
from quant_core.export.symbolics import more_operators, plain_operators
from quant_core.network.copies import sharing_copy
from quant_core.network.forward import Examples, call, rows_of, with_first_input
from quant_core.network.outputs import further_outputs, judged_output
from quant_core.network.parameters import from_matrix, holder, layer_module, to_matrix
from quant_core.network.sizes import varying_axes
from quant_core.network.trace import is_transformers_conv1d
from quant_core.spec.layer import Layer
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.quiet import quiet_stdout
from quant_core.util.text import listed

DOMAIN, WEIGHT, INPUT = "bitfront", "Weight", "Input"
TRACED_OPSET = 20
_INSTEAD = "Use safetensors, or torchao or vllm for transformers"
_BFLOAT16 = (
    "ONNX cannot represent this network: it computes in bfloat16 (its weights, its inputs, or under autocast), for which onnxruntime has "
    "no kernels on a CPU; search and export it in float32, as model.float() and without autocast, or use safetensors."
)
_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.float64: TensorProto.DOUBLE}


class _Tag(torch.autograd.Function):
    """The identity; in the graph a node of domain `bitfront`."""

    @staticmethod
    def forward(_context: Any, x: Tensor, _kind: str, _layer: str, _type: int) -> Tensor:
        """Return a copy."""
        return x.clone()

    @staticmethod
    def symbolic(graph: Any, x: Any, kind: str, layer: str, dtype: int) -> Any:
        """Return the node."""
        return graph.op(f"{DOMAIN}::{kind}", x, layer_s=layer, type_i=dtype).setType(x.type())


class _Held(torch.autograd.Function):
    """A weight that the graph does not hold: in the graph a node of domain `bitfront` that reads one number in its place."""

    @staticmethod
    def forward(_context: Any, _number: Tensor, held: "_TaggedWeight", _layer: str, _type: int) -> Tensor:
        """Return the weight."""
        return held.matrix.data  # another tensor in each call, of the same memory, that tracing knows nothing of

    @staticmethod
    def symbolic(graph: Any, number: Any, held: "_TaggedWeight", layer: str, dtype: int) -> Any:
        """Return the node."""
        return graph.op(f"{DOMAIN}::{WEIGHT}", number, layer_s=layer, type_i=dtype).setType(number.type().with_sizes(held.matrix.shape))


def _tag(x: Tensor, kind: str, layer: str) -> Tensor:
    tagged: Tensor = _Tag.apply(x, kind, layer, _TYPES.get(x.dtype, TensorProto.FLOAT))  # type: ignore[no-untyped-call]
    return tagged


class _TaggedWeight(nn.Module):
    """Stands for the weight of a layer: the graph gets a tag, and no copy of the values.

    Args:
        layer: the layer.
        weight: its values as the module holds them.
    """

    def __init__(self, layer: Layer, weight: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.matrix = to_matrix(weight, layer.contraction_axis) if layer.stack_shape else weight
        self.read = False

    def forward(self, number: Tensor) -> Tensor:
        self.read = True
        kind = _TYPES.get(self.matrix.dtype, TensorProto.FLOAT)
        matrix: Tensor = _Held.apply(number, self, self.layer.name, kind)  # type: ignore[no-untyped-call]
        return from_matrix(matrix, self.layer.stack_shape, self.layer.contraction_axis) if self.layer.stack_shape else matrix


class Flat(nn.Module):
    """A network called with the tensors of its inputs, one argument each; all else in a batch (None, numbers, flags) is constant."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        leaves, self.structure = tree_flatten(example)
        self.model, self.constants = model, [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the judged output, and all others where the owner named it."""
        rest = iter(tensors)
        leaves = [next(rest) if constant is None else constant[0] for constant in self.constants]
        outputs = call(self.model, tree_unflatten(leaves, self.structure))
        judged = judged_output(self.model, outputs)
        return judged, *further_outputs(self.model, outputs, judged)


def traced(
    model: nn.Module, example: Any, weights: Collection[Layer], inputs: Collection[Layer], others: Sequence[Any] = ()
) -> onnx.ModelProto:
    """Return the graph of `model` (no layer in it quantized) for any batch size, and any size of the axes that differ between batches.

    Its first output is the judged one, `output`. Where the owner named that output, all others follow, as `output1`, `output2`, ...

    Args:
        model: in eval mode; it is not touched.
        example: one batch of model inputs.
        weights, inputs: the layers whose weight, whose input is tagged.
        others: batches of other sizes, see `quant_core.network.sizes`.

    Raises:
        InputError: torch.onnx cannot map an operator of the network, or onnxruntime has no kernels for its type.
    """
    names, tensors = input_names(example), tensor_leaves(example)
    if any(isinstance(part, Examples) for part in rows_of(example)):
        raise InputError(f"ONNX cannot represent this network: it takes lists of any number of examples. {_INSTEAD}.")
    if any(tensor.dtype == torch.bfloat16 for tensor in (*model.parameters(), *model.buffers(), *tensors)):
        raise InputError(_BFLOAT16)
    buffer = io.BytesIO()
    with torch.no_grad():
        results = [Flat(model, example)(*tensor_leaves(batch)) for batch in (example, *others)]
    outputs = ["output", *(f"output{number}" for number in range(1, len(results[0])))]
    tagged = _tagged(model, weights, inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _nowhere(), more_operators(TRACED_OPSET), plain_operators():
            warnings.simplefilter("ignore")  # of shapes kept as constants, and that this exporter is deprecated: the graph is checked later
            torch.onnx.export(
                Flat(tagged, example).eval(),
                tuple(tensors),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=TRACED_OPSET,
                custom_opsets={DOMAIN: 1} if weights or inputs else None,
                input_names=names,
                output_names=outputs,
                dynamic_axes=_free_axes(names, [example, *others]) | _free_axes(outputs, results),
            )
    except BitfrontError:
        raise
    except Exception as error:  # an operator's mapping may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = reason.partition("Please feel free")[0].strip().rstrip(".")  # of torch's: to request support, and a dump of the value
        raise InputError(f"ONNX cannot represent this network: {reason}. {_INSTEAD}.") from error
    _require_read(tagged)
    graph = onnx.load_from_string(buffer.getvalue())
    if holds_bfloat16(graph.graph):
        raise InputError(_BFLOAT16)
    explicit_pads(graph.graph)
    return graph


def _require_read(tagged: nn.Module) -> None:
    """Refuse a traced network that has not read one of its weights, by none of the layers that share it.

    Raises:
        InputError: the traced batch does not reach a layer.
    """
    weights = [module for module in tagged.modules() if isinstance(module, _TaggedWeight)]
    read = {weight.layer.tied_to or weight.layer.name for weight in weights if weight.read}
    passed = [weight.layer.name for weight in weights if (weight.layer.tied_to or weight.layer.name) not in read]
    if passed:
        raise InputError(
            f"ONNX cannot represent this network: which layers run depends on the data, and the traced batch passes by {listed(passed, 3)}."
            f" {_INSTEAD}."
        )


def _free_axes(names: Sequence[str], batches: Sequence[Any]) -> dict[str, dict[int, str]]:
    """Return the axes of any size by tensor, with a name: the first one, and those that differ between batches; equal sizes share it."""
    axes = {name: {0: "batch"} for name, tensor in zip(names, tensor_leaves(batches[0]), strict=True) if tensor.dim()}
    for (number, axis), (first, of_first) in varying_axes(batches[0], batches[1:]).items():
        axes[names[number]][axis] = f"{names[first]}_axis{of_first}"
    return axes


@contextmanager
def _nowhere() -> Iterator[None]:
    """Drop what the exporter prints: it shows whole graphs where it fails."""
    with Path(os.devnull).open("w") as nowhere, quiet_stdout(nowhere.fileno()):
        yield


def tensor_leaves(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch, in order."""
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def input_names(example: Any) -> list[str]:
    """Return the graph's names of the tensors of a batch: the keys of a dict, `input` for a single tensor, else `input0`, ..."""
    count = len(tensor_leaves(example))
    if isinstance(example, dict) and sum(isinstance(value, Tensor) for value in example.values()) == count:
        return [str(key) for key, value in example.items() if isinstance(value, Tensor)]
    return ["input"] if count == 1 else [f"input{i}" for i in range(count)]


def _tagged(model: nn.Module, weights: Collection[Layer], inputs: Collection[Layer]) -> nn.Module:
    model = sharing_copy(model)
    modules = dict(model.named_modules())
    for module in modules.values():
        if type(module).__qualname__ == "Conv1D" and is_transformers_conv1d(module):
            module.forward = _ProductOfAnyAxes(module)
    for layer in weights:
        owner, key = holder(model, layer.name)
        tagged = _TaggedWeight(layer, owner.get_parameter(key).detach())
        setattr(owner, key, nn.Parameter(tagged.matrix.new_zeros(1), requires_grad=False))
        parametrize.register_parametrization(owner, key, tagged, unsafe=True)
    for layer in inputs:
        layer_module(model, layer).register_forward_pre_hook(_tag_input(layer.name), with_kwargs=True)
    return model


class _ProductOfAnyAxes:
    """x W + b in place of transformers' Conv1D.forward, which flattens x between the quantizer and the product: onnxruntime 1.32 moves the
    quantizer behind such a Reshape and then fails (output_dtype INT8 does not match y_zero_point type UINT8)."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.matmul(x, self.module.weight) + self.module.bias
        return product


def _tag_input(name: str) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return with_first_input(args, kwargs, lambda x: _tag(x, INPUT, name))

    return hook
