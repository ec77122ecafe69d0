"""A network trained under its policy, as `quant_core.qat` leaves it, with the stored values of every layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from quant_core.codecs.qparams import QParams
from quant_core.codecs.quantize import encode
from quant_core.export.stored import Quantized, StoredLayer, require_same
from quant_core.network.parameters import layer_module
from quant_core.qat.method import InputQuantizer
from quant_core.qat.prepare import finalize, float_weights, input_quantizers, quantized_weights
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT
from quant_core.util.text import listed


def trained(prepared: nn.Module, base: nn.Module, layers: Sequence[Layer], policy: Policy, example: Any) -> Quantized:
    """Return a prepared network after its training.

    Args:
        prepared: from `quant_core.qat.train.train`.
        base: the network that was prepared, as it was before training; trained values besides weights are copied into it.
        layers: of the network, in network order.
        policy: of the training. A method may store a weight in another spec than that of the policy (DoReFa: one bit more); the layer
            then has that spec, and a note names it.
        example: one batch of model inputs.

    Raises:
        QatError: a weight is not exactly what its spec stores.
        BitfrontError: the codes of a layer do not decode to its weight.
    """
    simulation = finalize(prepared)
    base.load_state_dict(float_weights(prepared))
    stored = _layers(prepared, simulation, layers, policy)
    other = [
        layer.layer.name
        for layer in stored
        if layer.encoded is not None and layer.policy.weight.bits != policy[layer.layer.name].weight.bits
    ]
    notes = (f"training stores these weights in more bits than the policy has: {listed(other)}",) if other else ()
    return Quantized(simulation, base, stored, example, notes)


def _layers(prepared: nn.Module, simulation: nn.Module, layers: Sequence[Layer], policy: Policy) -> tuple[StoredLayer, ...]:
    weights, inputs = quantized_weights(prepared), input_quantizers(prepared)
    rows = []
    for layer in layers:
        module, wanted = layer_module(simulation, layer), policy[layer.name] if layer.calls else LayerPolicy()
        weight, bias = module.get_parameter("weight").detach().clone(), module._parameters.get("bias")
        made, encoded = weights.get(layer.name), None
        if made is not None:
            encoded = encode(made.source, made.spec, channel_axis=made.channel_axis, bounds=made.bounds)
            require_same(layer, made.spec, encoded, weight)
        held = replace(wanted, weight=FLOAT if made is None else made.spec)
        grid = _grid(inputs[layer.name]) if layer.name in inputs else None
        rows.append(StoredLayer(layer, held, weight, encoded, None if bias is None else bias.detach().clone(), grid))
    return tuple(rows)


def _grid(quantizer: InputQuantizer) -> QParams | None:
    """Return a static grid with its scale in float32, as training computes with it."""
    codes = quantizer.codes()
    return None if codes is None else codes._replace(scale=float(np.float32(codes.scale)))
