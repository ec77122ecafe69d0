"""A network quantized by a policy as a file of LiteRT. It takes one example of the sizes that it was written with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from torch import nn

from quant_core.export import graph as onnx_graph
from quant_core.export.carriers import Carrier
from quant_core.export.constants import GraphParts
from quant_core.export.fusion import move_quantizers
from quant_core.export.litert import elementwise, flatbuffer, layers, library, moves, storage, windows
from quant_core.export.litert.statics import statics
from quant_core.export.litert.translation import Translation, Value, translated
from quant_core.export.requirements import require_float32, require_held
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.tagging import input_names, tensor_leaves
from quant_core.export.wiring import Wiring
from quant_core.network.forward import first_example
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.files import write_bytes
from quant_core.util.text import listed

_COARSER = "channels whose bias is too large for int32 in steps of input scale x weight scale have coarser codes"
BYTE = Carrier("INT8", 8)
OPERATORS = {**elementwise.OPERATORS, **layers.OPERATORS, **moves.OPERATORS, **windows.OPERATORS}


@dataclass(frozen=True)
class Written:
    """A file and the bytes of its weights.

    Attributes:
        model, data: the file.
        payload: bytes of codes and scales.
        extra: the part of `payload` that is due to wider types than the formats'.
        notes: codes that are stored in more bits than they have, weights that are stored in float, and layers that are not in the file.
        unread: layers whose output nothing reads; they are not in the file.
    """

    model: flatbuffer.Model
    data: bytes
    payload: int
    extra: float
    notes: tuple[str, ...]
    unread: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the file."""
        write_bytes(path, self.data)


def refusals(layer: Layer, policy: LayerPolicy, *, allow_dequantized: bool = False) -> list[str]:
    """Return the parts of a layer's policy that a file cannot hold."""
    weight = "" if allow_dequantized else storage.refusal(layer, policy.weight)
    return [fault for fault in (weight, _activation_fault(layer, policy)) if fault]


def _activation_fault(layer: Layer, policy: LayerPolicy) -> str:
    spec = policy.activation
    if spec.is_float or not layer.takes_activation:
        return ""
    if spec.format == "int" and spec.bits <= 8 and spec.granularity == "tensor" and not spec.dynamic:
        return ""
    by_row = spec.format == "int" and spec.bits == 8 and spec.granularity == "token"
    if by_row and layer.kind == "linear" and not policy.weight.is_float:
        return ""
    return f"LiteRT has no kernel for activation {spec}; use int8:tensor, or int8:token before quantized weights of linear layers"


def program(network: Quantized, *, allow_dequantized: bool = False, rounding: bool = True, integers: bool = True) -> Written:
    """Return the file of a network.

    Args:
        network: a network and its layers as the simulation quantizes them.
        allow_dequantized: store weights that it cannot hold as float constants of their quantized values.
        rounding: layers that do not lie between two quantizers round their inputs to 8 bits as they run; else their codes become floats.
        integers: layers that lie between two quantizers are computed by int8; else as all others.

    Raises:
        InputError: weights, activations or an operator that it cannot hold; the first layer is named. Or ai-edge-litert is not installed.
    """
    library("schema_py_generated")
    _require_held(network, allow_dequantized=allow_dequantized)
    network = replace(network, example=first_example(network.example), others=())
    by_name = {stored.layer.name: stored for stored in network.stored}
    held = {name: stored for name, stored in by_name.items() if not storage.refusal(stored.layer, stored.policy.weight)}
    coded = [stored.layer for name, stored in held.items() if stored.encoded is not None]
    gridded = [stored.layer for stored in network.stored if stored.grid is not None]
    graph = onnx_graph.tagged_graph(network, coded, gridded)
    unread, placed = onnx_graph.unread_layers(graph.graph, coded), dict[str, StoredLayer]()
    parts = onnx_graph.replace_tags(graph.graph, by_name, _writer(placed))
    wiring = Wiring(graph.graph, parts.constants)
    move_quantizers(wiring)
    wiring.finish()
    onnx_graph.finish(graph, parts)
    shared = storage.shared_owners(network.stored)
    weights = {name: storage.stored_weight(layer, shared=layer.owner in shared) for name, layer in placed.items()}
    model = _model(graph, network.example, weights, rounding=rounding, integers=integers)
    return Written(
        model,
        flatbuffer.serialized(model),
        sum(weight.payload for weight in weights.values()),
        sum(weight.extra for weight in weights.values()),
        _notes(placed, weights, [stored for name, stored in by_name.items() if name not in held], unread),
        unread,
    )


def float_program(model: nn.Module, example: Any) -> Written:
    """Return the file of a float network, without any quantizer.

    Raises:
        InputError: LiteRT cannot represent it.
    """
    made = float_model(model, example)
    return Written(made, flatbuffer.serialized(made), 0, 0.0, ())


def float_model(model: nn.Module, example: Any) -> flatbuffer.Model:
    """Return a float network as plain data; ai-edge-litert is not needed.

    Raises:
        InputError: LiteRT cannot represent it.
    """
    require_float32("LiteRT's kernels", [*model.parameters(), *tensor_leaves(example)])
    example = first_example(example)
    return _model(onnx_graph.float_graph(model, example), example, {}, rounding=True, integers=True)


def _model(
    graph: onnx.ModelProto, example: Any, weights: Mapping[str, storage.StoredWeight], *, rounding: bool, integers: bool
) -> flatbuffer.Model:
    arrays = {name: tensor.numpy() for name, tensor in zip(input_names(example), tensor_leaves(example), strict=True)}

    def start(work: Translation) -> None:
        for name, weight in weights.items():
            tensor = flatbuffer.Tensor(
                name.removesuffix(".codes"), weight.codes.shape, weight.kind, weight.data, weight.scale, 0, weight.axis
            )
            work.bind_codes(name, Value(work.add(tensor), weight.order))

    return translated(graph.graph, statics(graph, arrays, weights), OPERATORS, start, rounding=rounding, integers=integers)


def _require_held(network: Quantized, *, allow_dequantized: bool) -> None:
    require_float32(
        "LiteRT's kernels", [*network.base.parameters(), *tensor_leaves(network.example), *(stored.weight for stored in network.stored)]
    )

    def refused(its: StoredLayer) -> Sequence[str]:
        return refusals(its.layer, its.policy, allow_dequantized=allow_dequantized)

    require_held(network.stored, refused, allow_dequantized=allow_dequantized)


def _writer(placed: dict[str, StoredLayer]) -> onnx_graph.TagWriter:
    """Return the writer of tags: quantizers to int8 for inputs, and constants, noted in `placed`, for the codes of weights."""

    def written(layer: StoredLayer, source: str, prefix: str, output: str) -> GraphParts:
        parts = GraphParts()
        if source:
            return _grid(layer, source, prefix, output)
        name = f"{prefix}.codes"
        placed[name] = layer
        parts.floats(name, np.zeros(layer.layer.weight_shape, dtype=np.int8))
        parts.node("Cast", [name], output, to=TensorProto.FLOAT)
        return parts

    return written


def _grid(layer: StoredLayer, source: str, prefix: str, output: str) -> GraphParts:
    """Return a quantizer to int8 with its dequantizer; codes of fewer bits have limits between."""
    assert layer.grid is not None
    scale, zero_point, low, high = layer.grid
    shift = -128 - low
    parts = GraphParts()
    grid = [parts.floats(f"{prefix}.scale", np.array(np.float32(scale)))]
    grid.append(parts.integers(f"{prefix}.zero_point", np.array(zero_point + shift), BYTE))
    codes = parts.node("QuantizeLinear", [source, *grid], f"{output}.codes")
    if high + shift < 127:
        ends = [parts.integers(f"{prefix}.{name}", np.array(end), BYTE) for name, end in (("low", -128), ("high", high + shift))]
        codes = parts.node("Clip", [codes, *ends], f"{output}.limited")
    parts.node("DequantizeLinear", [codes, *grid], output)
    return parts


def _notes(
    placed: Mapping[str, StoredLayer], weights: Mapping[str, storage.StoredWeight], floats: Sequence[StoredLayer], unread: Sequence[str]
) -> tuple[str, ...]:
    grouped: dict[str, list[str]] = {}
    for name, layer in placed.items():
        bits = weights[name].bits
        if bits > layer.policy.weight.bits:
            grouped.setdefault(f"{layer.policy.weight.bits}-bit int weights are stored in {bits} bits", []).append(layer.layer.name)
        if weights[name].coarser:
            grouped.setdefault(_COARSER, []).append(f"{layer.layer.name} ({weights[name].coarser})")
    for layer in floats:
        grouped.setdefault(f"{layer.policy.weight} weights are stored dequantized, in float32", []).append(layer.layer.name)
    grouped |= {onnx_graph.UNREAD: list(unread)} if unread else {}
    return tuple(f"{note}: {listed(names)}" for note, names in grouped.items())
