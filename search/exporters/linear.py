"""Shared parts of the configurations of transformer runtimes: they are for linear layers, under the names that transformers uses."""

from collections.abc import Callable, Sequence

from torch import nn

from quant_core.network.parameters import own_modules
from quant_core.spec.layer import Layer
from quant_core.spec.policy import NONE, LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.text import first_fault, listed
from search.exporters import Bundle
from search.exporters.pretrained import is_pretrained


def require_supported(bundle: Bundle, runtime: str, fault: Callable[[LayerPolicy, int], str]) -> tuple[Layer, ...]:
    """Return the linear layers, those that stay in float too.

    Raises:
        InputError: another layer than a linear one or an embedding is quantized, or `fault` (policy, inputs) finds one in a linear layer.
    """
    transform = bundle.policy.transform
    if transform != NONE:
        raise InputError(f"{runtime} takes the weights of the float network, this policy is for the network under {transform!r}; use onnx.")
    faults = []
    modules = own_modules(bundle.task.model, bundle.layers)
    for layer in bundle.layers:
        if refusal := layer_fault(layer, bundle.policy[layer.name], runtime, fault, own_module=layer.name in modules):
            faults.append(f"layer {layer.name!r}: {refusal}")
    if faults:
        raise InputError(f"{first_fault(faults)}.")
    return tuple(layer for layer in bundle.layers if layer.kind == "linear" and layer.name in modules)


def layer_fault(
    layer: Layer, policy: LayerPolicy, runtime: str, fault: Callable[[LayerPolicy, int], str], *, own_module: bool = True
) -> str:
    """Return why the configuration of `runtime` cannot hold a layer, or "": `fault` (policy, inputs) judges linear layers.

    `own_module`: the layer is a module that is called, not a weight that another module reads.
    """
    if layer.kind == "linear" and not own_module:
        reason = f"{runtime} quantizes modules, this is a weight that another module reads; use onnx"
        return reason if policy != LayerPolicy() else ""
    if layer.kind == "linear":
        return fault(policy, layer.in_channels) if layer.calls else ""
    if layer.kind == "embedding" or policy == LayerPolicy():
        return ""
    return f"{runtime} quantizes linear layers, this is a {layer.kind}; use onnx"


def float_embeddings(bundle: Bundle) -> tuple[str, ...]:
    """Return a note of the embeddings that the policy quantizes and the configuration leaves in float."""
    names = [layer.name for layer in bundle.layers if layer.kind == "embedding" and not bundle.policy[layer.name].weight.is_float]
    return (f"embeddings stay in float here: {listed(names)}",) if names else ()


def public_names(model: nn.Module, layers: Sequence[Layer]) -> dict[str, str]:
    """Return layer -> its name within the transformers model that a task may wrap."""
    prefix = next((f"{name}." for name, module in model.named_modules() if name and is_pretrained(module)), "")
    return {layer.name: layer.name.removeprefix(prefix) for layer in layers}
