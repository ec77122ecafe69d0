"""The layers, choices and networks that a format of export cannot hold, known before anything is searched: no network is run or quantized.

A function per format, of (float module, layer, its policy), gives the reason, or "" where the format holds the layer. The exporters refuse
by the same functions.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from hw_models.runtimes import flags, load_runtime
from quant_core.export import c_array as integers
from quant_core.export import graph, nbits
from quant_core.export.executorch import program
from quant_core.export.litert import program as litert
from quant_core.export.openvino import model
from quant_core.export.tagging import traced
from quant_core.network.parameters import StoredParameter, layer_module
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontWarning, InputError
from quant_core.util.registry import resolve
from search.exporters import EXPORTERS, compressed, gguf, torchao, vllm
from search.exporters.linear import layer_fault

Refusal = Callable[[nn.Module, Layer, LayerPolicy], str]


def _c_array(module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return integers.refusal(module, layer, policy) if layer.calls else ""


def _onnx(_module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return "; ".join(graph.refusals(layer, policy)) if layer.calls else ""


def _torchao(module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return layer_fault(layer, policy, "torchao", torchao.fault, own_module=_is_called(module, layer))


def _openvino(_module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return "; ".join(model.refusals(layer, policy)) if layer.calls else ""


def _executorch(_module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return "; ".join(program.refusals(layer, policy)) if layer.calls else ""


def _litert(_module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return "; ".join(litert.refusals(layer, policy)) if layer.calls else ""


def _vllm(module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return layer_fault(layer, policy, "vLLM", vllm.fault, own_module=_is_called(module, layer))


def _is_called(module: nn.Module, layer: Layer) -> bool:
    return not layer.weight_only and not isinstance(module, StoredParameter)


def _gguf(_module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return gguf.refusal(layer, policy)


def _compressed(_module: nn.Module, layer: Layer, policy: LayerPolicy) -> str:
    return compressed.refusal(layer, policy)


REFUSALS: dict[str, Refusal] = {
    "c-array": _c_array,
    "onnx": _onnx,
    "onnx-matmulnbits": _onnx,
    "openvino": _openvino,
    "executorch": _executorch,
    "litert": _litert,
    "torchao": _torchao,
    "vllm": _vllm,
    "gguf": _gguf,
    "compressed-tensors": _compressed,
}
"""All other formats hold every policy."""


def check_formats(
    formats: Sequence[str],
    model: nn.Module,
    example: Any,
    layers: Sequence[Layer],
    choices: Mapping[str, Sequence[LayerPolicy]],
    *,
    bias_correction: bool = False,
) -> None:
    """Refuse a search whose every policy some asked format refuses.

    Args:
        formats: names of `EXPORTERS`, or "package.module:function", which are not checked.
        model, example: the float network and one batch of its inputs; the formats with a graph trace them.
        layers, choices: of the space.
        bias_correction: layers whose weight is quantized are given biases.

    Raises:
        InputError: an unknown format, a network that it cannot hold, or a layer none of whose choices it can; every one is named.
    """
    faults = []
    for name in formats:
        resolve(EXPORTERS, "export format", name)
        faults += _layer_faults(name, model, layers, choices, bias_correction=bias_correction)
        faults += _no_products(layers, choices) if name == "onnx-matmulnbits" else []
    if faults:
        raise InputError(f"{'; '.join(faults)}. Allow such layers a choice that is held, or leave the format out of [export] formats.")
    for name in {"openvino", "executorch", "litert"} & set(formats):
        for flag in flags(load_runtime(name), layers, choices):
            warnings.warn(flag, BitfrontWarning, stacklevel=2)
    if {"onnx", "onnx-matmulnbits", "openvino"} & set(formats):
        traced(model, example, (), ())
    if "executorch" in formats:
        program.require_exportable(model, example)
    if "litert" in formats:
        litert.float_model(model, example)


def _layer_faults(
    name: str, model: nn.Module, layers: Sequence[Layer], choices: Mapping[str, Sequence[LayerPolicy]], *, bias_correction: bool
) -> list[str]:
    """Return a fault per reason, with the first of the layers that it holds for."""
    if name not in REFUSALS:
        return []
    refused: dict[str, list[str]] = {}
    for layer in layers:
        module = layer_module(model, layer)
        bias = gguf.bias_fault(model, layer) if bias_correction and name == "gguf" and layer.calls else ""
        reasons = [REFUSALS[name](module, layer, policy) or ("" if policy == LayerPolicy() else bias) for policy in choices[layer.name]]
        if reasons and all(reasons):
            refused.setdefault(reasons[0], []).append(layer.name)
    return [
        f"format {name} holds no choice of layer {names[0]!r}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
        for reason, names in refused.items()
    ]


def _no_products(layers: Sequence[Layer], choices: Mapping[str, Sequence[LayerPolicy]]) -> list[str]:
    """Return why no layer of any policy could be a MatMulNBits, or nothing."""
    quantized = [(layer, policy) for layer in layers if layer.calls for policy in choices[layer.name] if not policy.weight.is_float]
    reasons = [nbits.refusal(layer, policy) for layer, policy in quantized] or ["every weight is float"]
    return [f"format onnx-matmulnbits holds no choice of any layer: {reasons[0]}; use onnx"] if all(reasons) else []
