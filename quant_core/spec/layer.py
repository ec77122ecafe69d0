"""The arithmetic of one layer, as plain data: all that cost models and searchers take from a network."""

import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from quant_core.util.errors import InputError
from quant_core.util.text import given, listed

KINDS = ("linear", "conv", "depthwise", "conv_transpose", "embedding")


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantizable layer of a network. All counts are for ONE example (batch of 1).

    Attributes:
        name: qualified module name; of a shared module, the first name.
        kind: one of `KINDS`; `depthwise` is a convolution with one input channel per group.
        weight_shape: shape of the weight tensor as torch holds it.
        channel_axis: axis of the weight that runs over output channels (1 for transposed convolutions and transformers' Conv1D).
        kernel, stride, dilation: per spatial dimension; empty for linear and embedding layers.
        in_size, out_size: spatial size of input and output; a linear layer has one entry, its number of rows (tokens).
        macs: multiply-accumulates of all calls in one forward pass.
        calls: how often one forward pass runs the layer; 0 for a layer that is never called.
        live_elements: elements of other activations alive while the layer runs (residual branches).
        tied_to: name of the earlier layer that holds the very same weight (tied embeddings), or "". Its bytes count once, there.
        held_elements: elements of the parameters that a subclass holds beside weight and bias (a low-rank adapter); they stay in float32.
        weight_only: the input of the weight cannot be reached (a recurrent state, an expert's rows): there is no choice of an activation.
        stack_shape: shape of a parameter that is a stack of matrices, as torch holds it; `weight_shape` is then that of the matrix
            [all other axes, contraction axis] as which it is quantized. Empty for every other weight.
        contraction_axis: of a stack, the axis that is summed over.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    weight_shape: tuple[int, ...]
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    macs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    channel_axis: int = 0
    bias: bool = False
    calls: int = 1
    live_elements: int = 0
    tied_to: str = ""
    held_elements: int = 0
    weight_only: bool = False
    stack_shape: tuple[int, ...] = ()
    contraction_axis: int = 0

    @property
    def takes_activation(self) -> bool:
        """Whether the layer's input can be quantized: not the indices of an embedding, and not where no hook reaches it."""
        return self.kind != "embedding" and not self.weight_only

    @property
    def weights(self) -> int:
        """Elements of the weight tensor."""
        return math.prod(self.weight_shape)

    @property
    def in_elements(self) -> int:
        """Elements of the input activation of one call."""
        return self.in_channels * math.prod(self.in_size)

    @property
    def out_elements(self) -> int:
        """Elements of the output activation of one call."""
        return self.out_channels * math.prod(self.out_size)


_TUPLES = ("weight_shape", "in_size", "out_size", "kernel", "stride", "dilation", "stack_shape")
_TEXTS = ("name", "kind", "tied_to")
_FLAGS = ("bias", "weight_only")


def layers_to_json(layers: Iterable[Layer]) -> list[dict[str, object]]:
    """Return layers as plain data, defaults left out; `layers_from_json(layers_to_json(x)) == tuple(x)`."""
    defaults = {field.name: field.default for field in fields(Layer)}
    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(layer).items() if value != defaults[key]}
        for layer in layers
    ]


def layers_from_json(data: object) -> tuple[Layer, ...]:
    """Read the plain form of layers.

    Raises:
        InputError: naming the layer and the field that is wrong.
    """
    if not isinstance(data, list) or not data:
        raise InputError(f"a list of layers is needed; {type(data).__name__} given, or an empty list.")
    return tuple(_layer_from_json(position, entry) for position, entry in enumerate(data))


def _layer_from_json(position: int, entry: object) -> Layer:
    if not isinstance(entry, dict):
        raise InputError(f"layer {position}: {given(entry)} given; a table with name, kind, weight_shape, ... is needed.")
    where = f"layer {given(entry.get('name', position))}"
    legal = {field.name: field for field in fields(Layer)}
    unknown = sorted(set(entry) - set(legal))
    missing = [name for name, field in legal.items() if field.default is MISSING and name not in entry]
    if unknown or missing:
        raise InputError(f"{where}: unknown fields: {listed(unknown) or 'none'}; missing fields: {listed(missing) or 'none'}.")
    for key, value in entry.items():
        if not _well_typed(key, value):
            raise InputError(f"{where}, {key}: {given(value)} given; {_needed(key)} is needed.")
    if entry["kind"] not in KINDS:
        raise InputError(f"{where}, kind: {given(entry['kind'])} given; legal: {listed(KINDS)}.")
    plain: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in entry.items()}
    return Layer(**plain)


def _well_typed(key: str, value: object) -> bool:
    if key in _TEXTS:
        return isinstance(value, str)
    if key in _FLAGS:
        return isinstance(value, bool)
    values = value if key in _TUPLES and isinstance(value, list) else [value]
    return (key not in _TUPLES or isinstance(value, list)) and all(type(number) is int and number >= 0 for number in values)


def _needed(key: str) -> str:
    if key in _TEXTS:
        return "a text"
    return "true or false" if key in _FLAGS else f"a {'list of ' if key in _TUPLES else ''}whole number{'s' * (key in _TUPLES)} from 0"
