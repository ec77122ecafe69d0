"""Passes over an exported graph that bring quantizers where XNNPACK's kernels want them.

XNNPACK computes a layer by static int8 where its input is dequantized, its output goes to one quantizer alone, and nothing but one
activation function stands between (ConvolutionConfig and LinearConfig of executorch 1.5.1). Every other layer of packed weights gets a
quantizer whose range is that of every row of inputs (a convolution's: of every image), taken as it runs.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph

from quant_core.export.executorch.module import HIGH, LOW

Node = Any
"""A node of a graph; what its arguments are depends on its operation."""
aten, decomposed = torch.ops.aten, torch.ops.quantized_decomposed
IN_PLACE = {
    aten.relu_.default: aten.relu.default,
    aten.relu6_.default: aten.relu6.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.add_.Tensor: aten.add.Tensor,
}
ACTIVATIONS = {aten.relu.default: (0.0, float("inf")), aten.relu6.default: (0.0, 6.0), aten.hardtanh.default: (-1.0, 1.0)}
GRID_KEPT = (
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.unsqueeze.default,
)
"""Operations whose outputs are inputs of theirs: what was on a grid stays on it."""
LAYERS = (
    aten.linear.default,
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv_transpose2d.input,
)


def prepare(graph: Graph) -> None:
    """Drop dropout, put operations in place of those that write into their inputs, and the mean in place of pooling to one value."""
    for node in list(graph.nodes):
        if node.target in (aten.dropout.default, aten.dropout_.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in IN_PLACE:
            node.target = IN_PLACE[node.target]
        elif node.target is aten.adaptive_avg_pool2d.default and set(_pair(node.args[1])) == {1}:
            node.target, node.args = aten.mean.dim, (node.args[0], [-1, -2], True)


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def move_up(graph: Graph) -> None:
    """Quantize before pooling and changes of shape, too, where all that follows them is one quantizer: the layer before then has it."""
    for node in reversed(list(graph.nodes)):
        grids = {_grid(user) for user in node.users}
        if node.target in GRID_KEPT and len(grids) == 1 and None not in grids:
            source = node.args[0]
            (grid,) = grids
            if source.target not in (*GRID_KEPT, *LAYERS, *ACTIVATIONS) or set(source.users) != {node}:
                continue
            with graph.inserting_after(source):
                codes = graph.call_function(decomposed.quantize_per_tensor.default, (source, *(grid or ())))
            with graph.inserting_after(codes):
                values = graph.call_function(decomposed.dequantize_per_tensor.default, (codes, *(grid or ())))
            node.replace_input_with(source, values)


def _grid(node: Node) -> tuple[Any, ...] | None:
    return tuple(node.args[1:]) if node.target is decomposed.quantize_per_tensor.default else None


def merge(graph: Graph) -> None:
    """Keep one quantizer of every value and grid, for all its readers."""
    kept: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.target in (decomposed.quantize_per_tensor.default, decomposed.dequantize_per_tensor.default):
            key = (node.target, node.args)
            if key in kept:
                node.replace_all_uses_with(kept[key])
                graph.erase_node(node)
            else:
                kept[key] = node


def widen(graph: Graph) -> None:
    """Limit the values in place of the codes of quantizers below 8 bits; an activation function before takes the limits in."""
    for node in list(graph.nodes):
        if node.target not in (decomposed.quantize_per_tensor.default, decomposed.dequantize_per_tensor.default):
            continue
        source, scale, zero_point, low, high, kind = node.args
        if node.target is decomposed.quantize_per_tensor.default and (low, high) != (LOW, HIGH):
            source = _limited(graph, node, source, (low - zero_point) * scale, (high - zero_point) * scale)
        node.args = (source, scale, zero_point, LOW, HIGH, kind)


def _limited(graph: Graph, node: Node, source: Node, low: float, high: float) -> Node:
    if source.target in ACTIVATIONS and len(source.users) == 1:
        least, most = ACTIVATIONS[source.target] if len(source.args) < 3 else source.args[1:3]
        if max(least, low) < min(most, high):
            source.target, source.args = aten.hardtanh.default, (source.args[0], max(least, low), min(most, high))
            return source
    with graph.inserting_before(node):
        return graph.call_function(aten.hardtanh.default, (source, low, high))


def row_ranges(graph: Graph, is_packed: Callable[[Node], bool], *, static: bool = True) -> list[Node]:
    """Quantize by the range of every row the inputs of the layers that XNNPACK does not compute by static int8.

    Args:
        graph: of the network.
        is_packed: tells of a layer's node whether XNNPACK has dynamic kernels for it.
        static: use static int8 where that is possible; else only where nothing else is.

    Returns:
        the layers that stay without a kernel.
    """
    made: dict[Node, Node] = {}
    left = []
    for node in list(graph.nodes):
        if node.target not in LAYERS or not is_dequantized(node.args[1]):
            continue
        dynamic = is_packed(node)
        if _is_static(node) and (static or not dynamic):
            continue
        if not dynamic:
            left.append(node)
            continue
        source = node.args[0]
        if source not in made:
            made[source] = _by_row(graph, node, source)
        node.update_arg(0, made[source])
    return left


def is_dequantized(node: Any) -> bool:
    """Tell whether a node makes a weight of codes."""
    return getattr(node, "target", None) in (
        decomposed.dequantize_per_channel.default,
        torch.ops.torchao.dequantize_affine.default,
    )


def _is_static(node: Node) -> bool:
    """Tell whether a layer stands between a static quantizer and another one, with scales per row."""
    if (
        node.args[0].target is not decomposed.dequantize_per_tensor.default
        or node.args[1].target is torch.ops.torchao.dequantize_affine.default
    ):
        return False
    readers = list(node.users)
    if len(readers) == 1 and readers[0].target in ACTIVATIONS:
        readers = list(readers[0].users)
    return len(readers) == 1 and _grid(readers[0]) is not None


def _by_row(graph: Graph, node: Node, source: Node) -> Node:
    with graph.inserting_before(node):
        pair = graph.call_function(decomposed.choose_qparams.tensor, (source, LOW, HIGH, 1e-30, torch.int8))
        scale, zero_point = (graph.call_function(operator.getitem, (pair, i)) for i in (0, 1))
        rest = (scale, zero_point, LOW, HIGH, torch.int8)
        codes = graph.call_function(decomposed.quantize_per_tensor.tensor, (source, *rest))
        return graph.call_function(decomposed.dequantize_per_tensor.tensor, (codes, *rest))
