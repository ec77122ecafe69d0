"""A network quantized by a policy as a program of ExecuTorch for its XNNPACK backend. It takes one example."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from quant_core.export.executorch import library, quantizers, quiet, register, storage
from quant_core.export.executorch.module import WEIGHT_MARK, with_codes
from quant_core.export.requirements import IN_FLOAT, require_float32, require_held
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.tagging import Flat, tensor_leaves
from quant_core.network.forward import first_example
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import write_bytes
from quant_core.util.text import cut, first_fault, listed

_BETWEEN = (
    "XNNPACK has a kernel for its packed weights only between two quantizers to 8 bits: quantize its input and that of the layer that "
    "reads it, with no sum and no pooling between"
)


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program and the bytes of its weights.

    Attributes:
        data: the file.
        payload: bytes of codes and scales.
        extra: the part of `payload` that is due to wider types than the formats'.
        floats: layers whose quantized values are stored in float32.
        notes: codes that are stored in more bits than they have, scales that were rounded, and weights that are stored in float.
    """

    data: bytes
    payload: int
    extra: float
    floats: frozenset[str]
    notes: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the file."""
        write_bytes(path, self.data)


def refusals(layer: Layer, policy: LayerPolicy, *, allow_dequantized: bool = False, rounded: bool = False) -> list[str]:
    """Return the parts of a layer's policy that a program cannot hold."""
    weight = "" if allow_dequantized else storage.refusal(layer, policy.weight, rounded=rounded)
    if not weight and not allow_dequantized and policy.activation.is_float and not policy.weight.is_float and not _has_row_ranges(layer):
        weight = _BETWEEN
    return [fault for fault in (weight, _activation_fault(layer, policy)) if fault]


def _activation_fault(layer: Layer, policy: LayerPolicy) -> str:
    spec = policy.activation
    if spec.is_float or not layer.takes_activation:
        return ""
    if spec.format != "int" or spec.bits > 8 or spec.granularity not in ("tensor", "token"):
        return f"ExecuTorch has no kernel for activation {spec}; use int8:tensor, or int8:token in linear layers"
    if spec.granularity == "tensor" and not spec.dynamic:
        return ""
    if spec.bits < 8 or policy.weight.is_float or not _has_row_ranges(layer) or (spec.granularity == "token" and layer.kind != "linear"):
        return (
            f"activation {spec}: ExecuTorch takes ranges from what it runs for 8 bits and packed weights alone; use int{spec.bits}:tensor"
        )
    return ""


def _has_row_ranges(layer: Layer) -> bool:
    """Tell whether XNNPACK has a kernel for a layer's packed weights whose inputs are quantized as it runs."""
    if layer.kind in ("linear", "embedding"):
        return True
    return len(layer.kernel) == 2 and not storage.is_depthwise(layer)


def program(network: Quantized, *, allow_dequantized: bool = False, rounded: bool = False, static: bool = True) -> Lowered:
    """Return the program of a network.

    Args:
        network: a network and its layers as the simulation quantizes them.
        allow_dequantized: store weights that it cannot hold as float constants of their quantized values.
        rounded: scales may be rounded to the type in which they are stored.
        static: compute by static int8 where that is possible; else by ranges that are taken as it runs, wherever these are.

    Raises:
        InputError: weights, activations or an operator that it cannot hold; the first layer is named. Or executorch is not installed.
        BitfrontError: ExecuTorch does not lower the graph.
    """
    register()
    _require_held(network, allow_dequantized=allow_dequantized, rounded=rounded)
    coded = {stored.layer.name: stored for stored in network.stored if stored.encoded is not None}
    floats = {name for name, stored in coded.items() if storage.refusal(stored.layer, stored.policy.weight, rounded=rounded)}
    weights = {name: storage.stored_weight(stored) for name, stored in coded.items() if name not in floats}
    module, left = _quantized_graph(network, weights, floats, static=static)
    if left:
        if not allow_dequantized:
            faults = [f"layer {name!r}: {reason}" for name, reason in left.items()]
            raise InputError(f"{first_fault(faults)}. {IN_FLOAT}")
        floats |= set(left)
        module, left = _quantized_graph(network, weights, floats, static=static)
    data = _lowered(module, _example(network.example))
    kept = {name: weight for name, weight in weights.items() if name not in floats}
    owners = {(coded[name].owner, weight.kind): weight for name, weight in kept.items()}  # an embedding and a product share no bytes
    return Lowered(
        data,
        sum(weight.payload for weight in owners.values()),
        sum(weight.extra for weight in owners.values()),
        frozenset(floats),
        _notes(coded, kept, floats),
    )


def float_program(model: nn.Module, example: Any) -> Lowered:
    """Return the program of a float network, without any quantizer.

    Raises:
        InputError: ExecuTorch cannot represent it.
    """
    library("exir")
    tensors = _example(example)
    module = exported(Flat(model, first_example(example)).eval(), tensors).module()
    quantizers.prepare(module.graph)
    module.recompile()
    return Lowered(_lowered(module, tensors), 0, 0.0, frozenset(), ())


def _require_held(network: Quantized, *, allow_dequantized: bool, rounded: bool) -> None:
    tensors = [*network.base.parameters(), *_example(network.example), *(stored.weight for stored in network.stored)]
    require_float32("XNNPACK's quantized kernels", tensors)

    def refused(its: StoredLayer) -> Sequence[str]:
        return refusals(its.layer, its.policy, allow_dequantized=allow_dequantized, rounded=rounded)

    require_held(network.stored, refused, allow_dequantized=allow_dequantized)


def _quantized_graph(
    network: Quantized, weights: Mapping[str, storage.StoredWeight], floats: Collection[str], *, static: bool
) -> tuple[GraphModule, dict[str, str]]:
    """Return the graph with quantizers where XNNPACK wants them, and layer -> why it has no kernel for it."""
    layers = {stored.layer.name: stored.layer for stored in network.stored}
    flat = Flat(with_codes(network, weights, floats), first_example(network.example)).eval()
    module = exported(flat, _example(network.example)).module()
    graph = module.graph
    for change in (quantizers.prepare, quantizers.move_up, quantizers.merge, quantizers.widen):
        change(graph)
    names = _layers_of_codes(flat, weights)

    def layer_of(node: quantizers.Node) -> Layer:
        return layers[names[node.args[1].args[0].target]]

    left = {
        layer_of(node).name: _BETWEEN for node in quantizers.row_ranges(graph, lambda node: _has_row_ranges(layer_of(node)), static=static)
    }
    for node in graph.nodes:
        if quantizers.is_dequantized(node) and any(user.target not in quantizers.LAYERS for user in node.users):
            left[names[node.args[0].target]] = (
                "XNNPACK has packed weights of linear layers and convolutions; the network reads it otherwise"
            )
    graph.lint()
    module.recompile()
    return module, left


def _layers_of_codes(flat: nn.Module, weights: Mapping[str, storage.StoredWeight]) -> dict[str, str]:
    """Return name of a buffer of codes -> layer."""
    by_codes = {id(weight.codes): name for name, weight in weights.items()}
    return {
        name: by_codes[id(buffer)]
        for name, buffer in flat.named_buffers(remove_duplicate=False)
        if name.endswith(WEIGHT_MARK) and id(buffer) in by_codes
    }


def require_exportable(model: nn.Module, example: Any) -> None:
    """Refuse a float network that torch.export, which needs no executorch, cannot represent.

    Raises:
        InputError: with the reason.
    """
    exported(Flat(model, first_example(example)).eval(), _example(example))


def _example(example: Any) -> list[torch.Tensor]:
    return tensor_leaves(first_example(example))


def exported(module: nn.Module, tensors: Collection[torch.Tensor]) -> Any:
    """Return the program of torch.export of a module called with `tensors`; it needs no executorch.

    Raises:
        InputError: torch.export cannot represent the network.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, tuple(tensors), strict=False)
    except BitfrontError:
        raise
    except Exception as error:  # whatever the network's code raises while it is traced
        raise InputError(f"torch.export cannot represent this network: {_first_line(error)}. Use onnx or safetensors.") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _lowered(module: nn.Module, tensors: Collection[torch.Tensor]) -> bytes:
    exir, partition = library("exir"), library("backends.xnnpack.partition.xnnpack_partitioner")
    graph = exported(module, tensors)
    try:
        with quiet(), torch.no_grad():
            edge = exir.to_edge_transform_and_lower(
                graph, partitioner=[partition.XnnpackPartitioner()], compile_config=exir.EdgeCompileConfig(_check_ir_validity=False)
            )
            return bytes(edge.to_executorch().buffer)
    except Exception as error:  # its errors share no base class
        raise BitfrontError(f"ExecuTorch does not lower this network: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return cut(re.sub(r"\s+", " ", (str(error).strip().splitlines() or [type(error).__name__])[0]), 200).rstrip(".")


def _notes(coded: Mapping[str, StoredLayer], kept: Mapping[str, storage.StoredWeight], floats: Collection[str]) -> tuple[str, ...]:
    grouped: dict[str, list[str]] = {}
    for name, stored in coded.items():
        spec = stored.policy.weight
        if name in floats:
            grouped.setdefault(f"{spec} weights are stored dequantized, in float32", []).append(name)
            continue
        weight = kept[name]
        if weight.bits > spec.bits:
            grouped.setdefault(f"{spec.bits}-bit int weights are stored in {weight.bits} bits", []).append(name)
        if weight.kind == "qbint4" and spec.scale != "e8m0":
            grouped.setdefault("scales of groups are rounded to bfloat16, by at most 0.2 %", []).append(name)
    return tuple(f"{note}: {listed(names)}" for note, names in grouped.items())
