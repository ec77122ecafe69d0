"""A network quantized by a policy as an ONNX graph: QuantizeLinear and DequantizeLinear around float operators (QDQ)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from quant_core.codecs.qparams import QParams
from quant_core.export import nbits, tagging
from quant_core.export.carriers import IR, OPSET, Carrier, activation_carrier
from quant_core.export.constants import GraphParts, refusal, weight
from quant_core.export.float_convolutions import fold_float_weights
from quant_core.export.folding import fold_pads, fold_shapes
from quant_core.export.fusion import move_quantizers
from quant_core.export.integer_products import integer_products
from quant_core.export.lookups import look_up_codes
from quant_core.export.passes import drop_unread, reads, rename, shorten
from quant_core.export.requirements import require_held
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.wiring import Wiring
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.text import cut, first_fault, listed

TagWriter = Callable[[StoredLayer, str, str, str], GraphParts]
"""Of (layer, source, prefix, output): the nodes and constants that give `output`: the layer's input, of `source`, or, where that is "",
the layer's weight. Constants are named after `prefix`."""

UNREAD = "nothing reads the output of these layers, so they are not in the file"


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX model and the bytes of its weights.

    Attributes:
        model: checked by onnx.checker.
        payload: bytes of the constants that hold quantized weights: codes, scales, zero points.
        extra: the part of `payload` that is due to wider types than the formats'.
        notes: values that are carried in more bits than they have, and weights that are stored in float.
        unread: layers whose output nothing reads; they are not in the graph.
    """

    model: onnx.ModelProto
    payload: int
    extra: float
    notes: tuple[str, ...]
    unread: tuple[str, ...] = ()


def quantized_graph(network: Quantized, allow_dequantized: bool = False, *, products: bool = False) -> Graph:
    """Return the ONNX graph of a network.

    Args:
        network: a network and its layers as the simulation quantizes them.
        allow_dequantized: store weights that ONNX cannot represent as float constants of their quantized values.
        products: write the linear layers that onnxruntime's MatMulNBits holds as such; the others are named in a note.

    Raises:
        InputError: weights, activations or an operator that ONNX cannot represent; the first layer is named.
        BitfrontError: the graph is not valid.
    """
    require_held(network.stored, lambda its: refusals(its.layer, its.policy, allow_dequantized), allow_dequantized=allow_dequantized)
    by_name = {stored.layer.name: stored for stored in network.stored}
    quantized = [stored.layer for stored in network.stored if stored.encoded is not None and not refusal(stored.policy.weight)]
    gridded = [stored.layer for stored in network.stored if stored.grid is not None]
    graph = tagged_graph(network, quantized, gridded)
    unread = unread_layers(graph.graph, quantized)
    packed, kept = _packed_products(graph.graph, by_name) if products else (GraphParts(), {})
    parts = replace_tags(graph.graph, by_name, _qdq)
    parts.constants += packed.constants
    wiring = Wiring(graph.graph, parts.constants)
    move_quantizers(wiring)
    integer_products(wiring)
    fold_float_weights(wiring)
    parts.carried += look_up_codes(wiring)
    wiring.finish()
    finish(graph, parts)
    names = {constant.name for constant in parts.constants}
    held = [tensor for tensor in graph.graph.initializer if tensor.name in names and not tensor.name.startswith("grid")]
    payload = sum(len(tensor.raw_data) for tensor in held)
    return Graph(
        graph,
        payload,
        (parts.extra_bits + packed.extra_bits) / 8,
        _notes(
            *parts.carried,
            *packed.carried,
            *_dequantized(network),
            *((note, name) for name, note in kept.items()),
            *((UNREAD, name) for name in unread),
        ),
        unread,
    )


def _dequantized(network: Quantized) -> Iterator[tuple[str, str]]:
    """Yield (note, layer) of the weights that ONNX cannot represent."""
    for stored in network.stored:
        if stored.encoded is not None and refusal(stored.policy.weight):
            yield f"{stored.policy.weight} weights are stored dequantized, in float32", stored.layer.name


def _notes(*noted: tuple[str, str]) -> tuple[str, ...]:
    """Return a line per note, with the layers that it is of, from (note, layer)."""
    grouped: dict[str, list[str]] = {}
    for note, name in noted:
        grouped.setdefault(note, []).append(name)
    return tuple(f"{note}: {listed(names)}" for note, names in grouped.items())


def float_graph(model: nn.Module, example: Any) -> onnx.ModelProto:
    """Return the ONNX graph of a float network, with its shape arithmetic and padding folded as in a quantized one.

    Raises:
        InputError: ONNX cannot represent it.
        BitfrontError: the graph is not valid.
    """
    graph = tagging.traced(model, example, (), ())
    fold_shapes(graph)
    fold_pads(graph.graph, ())
    finish(graph, GraphParts())
    return graph


def tagged_graph(network: Quantized, weights: Sequence[Layer], inputs: Sequence[Layer]) -> onnx.ModelProto:
    """Return the traced graph with tags at the weights and inputs of these layers, its shape arithmetic and padding folded.

    Raises:
        InputError: ONNX cannot represent the network.
    """
    graph = tagging.traced(network.plain, network.example, weights, inputs, network.others)
    fold_shapes(graph)
    fold_pads(graph.graph, _keeping_zero(graph.graph, {stored.layer.name: stored for stored in network.stored}))
    return graph


def unread_layers(graph: onnx.GraphProto, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the names of the layers whose weight has no tag in a traced graph: the outputs do not depend on them."""
    read = {helper.get_node_attr_value(node, "layer").decode() for node in graph.node if node.op_type == tagging.WEIGHT}
    return tuple(layer.name for layer in layers if layer.name not in read)


def refusals(layer: Layer, policy: LayerPolicy, allow_dequantized: bool = False) -> list[str]:
    """Return the parts of a layer's policy that ONNX cannot represent."""
    faults, activation = [], policy.activation
    if not policy.weight.is_float and not allow_dequantized and (fault := refusal(policy.weight)):
        faults.append(fault)
    static = activation.format == "int" and activation.granularity == "tensor" and not activation.dynamic
    if not activation.is_float and not static and layer.calls and layer.takes_activation:
        faults.append(f"the range of activation {activation} changes with every batch; use int{min(activation.bits, 8)}:tensor")
    return faults


def _packed_products(graph: onnx.GraphProto, stored: Mapping[str, StoredLayer]) -> tuple[GraphParts, dict[str, str]]:
    """Write linear layers as MatMulNBits; return their constants, and layer -> why it stays a product of dequantized weights.

    Raises:
        InputError: MatMulNBits holds no layer.
    """
    faults = {name: nbits.refusal(layer.layer, layer.policy) for name, layer in stored.items() if layer.encoded is not None}
    tied = {layer.layer.tied_to for layer in stored.values()}
    faults |= {name: "MatMulNBits holds no weight that two layers share" for name in faults if name in tied}
    names = {name for name, fault in faults.items() if not fault}
    written = len(names)
    parts = nbits.replace_products(graph, stored, names)
    faults |= dict.fromkeys(names, "MatMulNBits stands for x W + b alone, and the network uses the weight otherwise")
    if written == len(names):
        raise InputError(
            f"{first_fault([f'layer {name!r}: {fault}' for name, fault in faults.items() if fault] or ['every weight is float'])}."
            " Use the format onnx."
        )
    return parts, {name: f"{fault}; DequantizeLinear is used" for name, fault in faults.items() if fault}


def _keeping_zero(graph: onnx.GraphProto, stored: Mapping[str, StoredLayer]) -> set[str]:
    """Return the outputs of the input tags whose grid has the value zero."""
    tags = [(node, stored[helper.get_node_attr_value(node, "layer").decode()].grid) for node in graph.node if node.op_type == tagging.INPUT]
    return {node.output[0] for node, grid in tags if grid is not None and grid.quant_min <= grid.zero_point <= grid.quant_max}


def replace_tags(graph: onnx.GraphProto, stored: Mapping[str, StoredLayer], written: TagWriter) -> GraphParts:
    """Put the quantized weights and the grids of the activations where the tags are. Equal weights and grids are stored once."""
    all_parts, nodes, renamed, outputs = GraphParts(), [], dict[str, str](), dict[object, str]()
    for node in graph.node:
        rename(node, renamed)
        if node.domain != tagging.DOMAIN:
            nodes.append(node)
            continue
        layer = stored[helper.get_node_attr_value(node, "layer").decode()]
        is_weight = node.op_type == tagging.WEIGHT
        key = (layer.owner, layer.policy.weight) if is_weight else (node.input[0], layer.grid)
        if key in outputs:
            renamed[node.output[0]] = outputs[key]
            continue
        outputs[key] = node.output[0]
        prefix = f"{layer.owner}.weight" if is_weight else f"grid{len(outputs)}"
        if is_weight and any(constant.name == f"{prefix}.codes" for constant in all_parts.constants):
            prefix = f"{layer.layer.name}.weight"
        parts = _tag_parts(node, layer, prefix, written)
        nodes += parts.nodes
        all_parts.add(parts)
    for output in graph.output:
        output.name = renamed.get(output.name, output.name)
    del graph.node[:]
    graph.node.extend(nodes)
    return all_parts


def _tag_parts(node: onnx.NodeProto, layer: StoredLayer, prefix: str, written: TagWriter) -> GraphParts:
    """Return what stands for a tag; where the network computes in another type than float32, between casts."""
    source, output, kind = node.input[0], node.output[0], helper.get_node_attr_value(node, "type")
    single = kind == TensorProto.FLOAT
    inner, casts = output if single else f"{output}.float32", GraphParts()
    is_weight = node.op_type == tagging.WEIGHT
    if not is_weight and not single:
        source = casts.node("Cast", [source], f"{output}.source", to=TensorProto.FLOAT)
    parts = written(layer, "" if is_weight else source, prefix, inner)
    parts.nodes = casts.nodes + parts.nodes
    if not single:
        parts.node("Cast", [inner], output, to=kind)
    return parts


def _qdq(layer: StoredLayer, source: str, prefix: str, output: str) -> GraphParts:
    return _activation(layer, source, prefix, output) if source else weight(layer, prefix, output)


def _activation(stored: StoredLayer, source: str, prefix: str, output: str) -> GraphParts:
    """Return QuantizeLinear and DequantizeLinear of a layer's input, with a Clip where the type has more codes than the grid."""
    assert stored.grid is not None
    scale, zero_point, low, high = stored.grid
    parts = GraphParts()
    kind = activation_carrier((high - low).bit_length(), signed=low < 0)
    if kind.name == "INT8":  # onnxruntime's kernels take unsigned inputs beside signed weights
        kind, zero_point, low, high = Carrier("UINT8", 8), zero_point + 128, low + 128, high + 128
    step = parts.floats(f"{prefix}.scale", np.array(divisor(stored.grid)))
    grid = [step, parts.integers(f"{prefix}.zero_point", np.array(zero_point), kind)]
    limited = kind.range != (low, high)
    if limited and kind.bits > 8:  # onnxruntime clips codes of 8 bits only
        ends = (np.float32((low - zero_point) * scale), np.float32((high - zero_point) * scale))
        limits = [parts.floats(f"{prefix}.{name}", np.array(end)) for name, end in zip(("low", "high"), ends, strict=True)]
        source = parts.node("Clip", [source, *limits], f"{output}.clipped")
    codes = parts.node("QuantizeLinear", [source, *grid], f"{output}.codes")
    if limited and kind.bits == 8:
        bounds = [parts.integers(f"{prefix}.{name}", np.array(end), kind) for name, end in (("low", low), ("high", high))]
        codes = parts.node("Clip", [codes, *bounds], f"{output}.limited")
    if limited:
        parts.carry(f"{stored.policy.activation.bits}-bit activations", stored.layer.name, kind, stored.policy.activation.bits)
    parts.node("DequantizeLinear", [codes, *grid], output)
    return parts


def divisor(grid: QParams) -> np.float32:
    """Return the float32 scale by which division rounds like the simulation's multiplication by 1 / scale, halves above all.

    Images are full of values half-way between two codes (0.5 under a scale of 1/255); of the nearest number and its two neighbours the
    result is the one that rounds the fewest half-way values to the other side.
    """
    scale, zero_point, low, high = grid
    nearest = np.float32(scale)
    halves = ((np.arange(low - zero_point, high - zero_point) + 0.5) * scale).astype(np.float32)
    wanted = np.rint(halves * np.float32(1.0 / scale))
    near = (nearest, np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(np.inf)))
    return min(near, key=lambda candidate: int((np.rint(halves / candidate) != wanted).sum()))


def finish(model: onnx.ModelProto, parts: GraphParts) -> None:
    """Add the constants, drop unused values, set the versions, check.

    Raises:
        BitfrontError: the graph is not valid.
    """
    graph = model.graph
    drop_unread(graph)
    used = {name for node in graph.node for name in reads(node)}
    named = {constant.name: constant for constant in (*graph.initializer, *parts.constants)}
    constants = [constant for name, constant in named.items() if name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    del graph.value_info[:]
    shorten(graph)
    model.ir_version = max((IR, *(carrier.ir for carrier in parts.carriers)))
    opset = max((OPSET, *(carrier.opset for carrier in parts.carriers)))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    for domain in sorted({node.domain for node in graph.node} - {""}):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    model.producer_name, model.producer_version = "bitfront", ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BitfrontError(f"the ONNX graph is not valid: {cut(str(error), 300)}") from error
