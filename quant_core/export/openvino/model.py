"""A network quantized by a policy as a model of OpenVINO: FakeQuantize at the inputs of layers, packed codes for their weights.

The graph is traced to ONNX as that of every ONNX export, read by OpenVINO's own reader, and its weights are then put in place of constants
that stand for them: ONNX lacks some of OpenVINO's types, and its reader keeps no packed codes of two bits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from quant_core.export import graph as onnx_graph
from quant_core.export.constants import GraphParts
from quant_core.export.openvino import library, storage
from quant_core.export.openvino.reductions import apart_from_quantizers
from quant_core.export.requirements import require_held
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontError
from quant_core.util.text import listed

DOMAIN = "org.openvinotoolkit"
_BETWEEN = frozenset({"Transpose", "Reshape", "Convert", "Unsqueeze", "Squeeze"})
_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
_LAYERS = frozenset({*_CONVOLUTIONS, "MatMul", "Gather"})


_NUMBERED = re.compile(r"[A-Z]\w*_\d+")


@dataclass(frozen=True, eq=False)
class Representation:
    """A model of OpenVINO and the bytes of its weights.

    Attributes:
        model: an `openvino.Model`; the operation of a layer bears the layer's name.
        payload: bytes of the constants that hold quantized weights: codes, scales, zero points.
        extra: the part of `payload` that is due to wider types than the formats'.
        notes: codes that are stored in more bits than they have, weights that are stored in float, and unread layers.
        unread: layers of quantized weights whose output nothing reads; they are not in the model.
        buffers: memory that the model's constants share.
    """

    model: Any
    payload: int
    extra: float
    notes: tuple[str, ...]
    unread: tuple[str, ...] = ()
    buffers: tuple[NDArray[Any], ...] = ()

    def save(self, path: Path) -> None:
        """Write `path` (.xml) and the weights beside it (.bin)."""
        for i, node in enumerate(self.model.get_ordered_ops()):
            if _NUMBERED.fullmatch(node.get_friendly_name()):  # by a counter of the process
                node.set_friendly_name(f"{node.get_type_name()}.{i}")
        library().save_model(self.model, str(path), compress_to_fp16=False)


def refusals(layer: Layer, policy: LayerPolicy, allow_dequantized: bool = False) -> list[str]:
    """Return the parts of a layer's policy that a file of OpenVINO cannot hold."""
    fault = "" if allow_dequantized or policy.weight.is_float else storage.refusal(policy.weight)
    inputs = [text for text in onnx_graph.refusals(layer, LayerPolicy(activation=policy.activation)) if text]
    return [*([fault] if fault else []), *inputs]


def representation(network: Quantized, allow_dequantized: bool = False) -> Representation:
    """Return the model of a network.

    Args:
        network: a network and its layers as the simulation quantizes them.
        allow_dequantized: store weights that it cannot hold as float constants of their quantized values.

    Raises:
        InputError: weights, activations or an operator that it cannot hold; the first layer is named. Or openvino is not installed.
        BitfrontError: OpenVINO does not read the graph.
    """
    library()
    require_held(network.stored, lambda its: refusals(its.layer, its.policy, allow_dequantized), allow_dequantized=allow_dequantized)
    by_name = {stored.layer.name: stored for stored in network.stored}
    gridded = [stored.layer for stored in network.stored if stored.grid is not None]
    graph = onnx_graph.tagged_graph(network, [stored.layer for stored in network.stored if stored.layer.calls], gridded)
    unread = onnx_graph.unread_layers(graph.graph, [stored.layer for stored in network.stored if stored.encoded is not None])
    placed: dict[str, StoredLayer] = {}
    parts = onnx_graph.replace_tags(graph.graph, by_name, _writer(placed))
    apart_from_quantizers(graph.graph)
    onnx_graph.finish(graph, parts)
    model = _read(graph.SerializeToString())
    weights = _put_weights(model, placed, network.stored)
    model.validate_nodes_and_infer_types()
    return Representation(
        model,
        sum(stored.payload for stored in weights.values()),
        sum(stored.extra for stored in weights.values()),
        _notes(weights, placed, unread),
        unread,
        tuple(buffer for stored in weights.values() for buffer in stored.buffers),
    )


def float_representation(model: Any, example: Any) -> Representation:
    """Return the model of a float network, without any quantizer.

    Raises:
        InputError: ONNX cannot represent it.
    """
    return Representation(_read(onnx_graph.float_graph(model, example).SerializeToString()), 0, 0.0, ())


def _read(data: bytes) -> Any:
    """Return the model of an ONNX graph.

    Raises:
        BitfrontError: OpenVINO does not take it.
    """
    ov = library()
    try:
        return ov.Core().read_model(data)
    except Exception as error:  # its errors share no base class
        lines = [line for line in str(error).strip().splitlines() if line]
        raise BitfrontError(f"OpenVINO {ov.__version__} does not read the graph: {lines[-1] if lines else error}") from error


def _writer(placed: dict[str, StoredLayer]) -> onnx_graph.TagWriter:
    """Return the writer of tags: FakeQuantize for inputs, and a constant, noted in `placed`, that stands for the codes of a weight."""

    def written(layer: StoredLayer, source: str, prefix: str, output: str) -> GraphParts:
        parts = GraphParts()
        if source:
            assert layer.grid is not None
            scale, zero_point, low, high = layer.grid
            ends = [np.array(np.float32((end - zero_point) * scale)) for end in (low, high)]
            names = [parts.floats(f"{prefix}.{name}", end) for name, end in zip(("low", "high"), ends, strict=True)]
            parts.node("FakeQuantize", [source, *names, *names], output, domain=DOMAIN, levels=high - low + 1)
            return parts
        name = f"{prefix}.codes"
        placed[name] = layer
        parts.floats(name, np.zeros(layer.layer.weight_shape, dtype=np.int8))
        parts.node("Cast", [name], output, to=TensorProto.FLOAT)
        return parts

    return written


def _put_weights(model: Any, placed: Mapping[str, StoredLayer], stored: Sequence[StoredLayer]) -> dict[str, storage.StoredWeight]:
    """Put the weights in the place of the constants that stand for them, and give the operations that read them their layers' names."""
    weights: dict[str, storage.StoredWeight] = {}
    for constant in [node for node in model.get_ops() if node.get_type_name() == "Constant" and node.get_friendly_name() in placed]:
        name = constant.get_friendly_name()
        layer = placed[name]
        constant.set_friendly_name(f"{name}.unused")
        weights[name] = storage.weight(layer, name)
        owned = [other.layer.name for other in stored if other.owner == layer.owner and other.policy.weight == layer.policy.weight]
        for cast in [target.get_node() for target in constant.output(0).get_target_inputs()]:
            for target in list(cast.output(0).get_target_inputs()):
                target.replace_source_output(weights[name].output)
        _name_readers(weights[name].output, owned)
    missing = sorted(set(placed) - set(weights))
    if missing:
        raise BitfrontError(f"OpenVINO's reader dropped the weights {listed(missing)}; report this.")
    return weights


def _name_readers(output: Any, names: Sequence[str]) -> None:
    """Name the operations that multiply by a weight, or look it up, after the layers that own it; calls beyond them are numbered.

    The plugin names a product that takes its bias in after the sum: that one has the layer's name, the product `NAME|product`.
    """
    waiting, readers = [output], []
    while waiting:
        for target in waiting.pop().get_target_inputs():
            node = target.get_node()
            if node.get_type_name() in _BETWEEN:
                waiting.append(node.output(0))
            elif node.get_type_name() in _LAYERS:
                readers.append(node)
    gathers = [
        node for node in readers if node.get_type_name() == "Gather"
    ]  # an embedding stands before the product that shares its weight
    for i, node in enumerate([*gathers, *(node for node in readers if node not in gathers)]):
        name = names[i] if i < len(names) else f"{names[-1]}#{i - len(names) + 2}"
        last = _with_bias(node)
        node.set_friendly_name(name if last is None else f"{name}|product")
        if last is not None:
            last.set_friendly_name(name)


def _with_bias(product: Any) -> Any | None:
    """Return the sum of a MatMul with a constant, where nothing but it reads the product; else None."""
    node = product
    while product.get_type_name() == "MatMul":
        readers = [target.get_node() for target in node.output(0).get_target_inputs()]
        if len(readers) != 1 or readers[0].get_type_name() not in ("Multiply", "Add") or not _adds_constant(readers[0], node):
            break
        node = readers[0]
        if node.get_type_name() == "Add":
            return node
    return None


def _adds_constant(node: Any, other: Any) -> bool:
    """Tell whether the operand of `node` that is not `other` comes from a constant."""
    operands = [value.get_node() for value in node.input_values()]
    rest = [operand for operand in operands if operand.get_friendly_name() != other.get_friendly_name()]
    while rest and rest[0].get_type_name() in (*_BETWEEN, "Multiply") and rest[0].get_input_size():
        rest = [rest[0].input_value(0).get_node()]
    return bool(rest) and rest[0].get_type_name() == "Constant"


def _notes(weights: Mapping[str, storage.StoredWeight], placed: Mapping[str, StoredLayer], unread: Sequence[str]) -> tuple[str, ...]:
    grouped: dict[str, list[str]] = {}
    for name, stored in weights.items():
        layer, bits = placed[name], int(stored.kind[1:])
        if layer.encoded is None:
            continue
        if stored.kind == "f32":
            grouped.setdefault(f"{layer.policy.weight} weights are stored dequantized, in float32", []).append(layer.layer.name)
        elif bits > layer.policy.weight.bits:
            grouped.setdefault(f"{layer.policy.weight.bits}-bit int weights are stored in {stored.kind}", []).append(layer.layer.name)
    grouped |= {onnx_graph.UNREAD: list(unread)} if unread else {}
    return tuple(f"{note}: {listed(names)}" for note, names in grouped.items())
