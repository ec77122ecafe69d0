"""A network whose blocks were reconstructed, with the stored values of every layer."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from quant_core.export.standalone import QuantizeInput
from quant_core.export.stored import Quantized, StoredLayer, require_same
from quant_core.network.fold import fold_batch_norm
from quant_core.network.parameters import layer_module
from quant_core.reconstruct.results import Reconstructed
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy


def reconstructed(result: Reconstructed, network: nn.Module, layers: Sequence[Layer], policy: Policy, example: Any) -> Quantized:
    """Return `network` quantized by `policy` as its reconstruction simulates it; the simulation shares nothing with it.

    Args:
        result: of the reconstruction.
        network: float, the one that was reconstructed.
        layers: of the network, in network order.
        policy: that was reconstructed.
        example: one batch of model inputs.

    Raises:
        BitfrontError: the codes of a layer do not decode to the weight that the simulation uses, bit for bit.
    """
    stored = tuple(_layer(result, layer, policy[layer.name] if layer.calls else LayerPolicy()) for layer in layers)
    made = Quantized(result.simulation, fold_batch_norm(network, example, share=True), stored, example)
    simulation = copy.deepcopy(made.plain).eval().requires_grad_(False)
    for layer in layers:
        if layer.name in result.inputs:
            hook = QuantizeInput(result.inputs[layer.name])
            layer_module(simulation, layer).register_forward_pre_hook(hook, with_kwargs=True)
    return replace(made, simulation=simulation)


def _layer(result: Reconstructed, layer: Layer, policy: LayerPolicy) -> StoredLayer:
    module, held = layer_module(result.simulation, layer), result.weights.get(layer.name)
    weight, bias = module.get_parameter("weight").detach(), module._parameters.get("bias")
    if held is not None:
        require_same(layer, policy.weight, held.encoded, weight)
    quantizer = result.inputs.get(layer.name)
    encoded, grid = None if held is None else held.encoded, None if quantizer is None else quantizer.static
    return StoredLayer(layer, policy, weight, encoded, None if bias is None else bias.detach().clone(), grid)
