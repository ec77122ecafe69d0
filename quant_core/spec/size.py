"""Sizes that follow from layers and a policy alone. A weight that several layers share counts once."""

from collections.abc import Sequence

from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy


def float_bytes(layers: Sequence[Layer]) -> float:
    """Return the bytes of all weights in float32, with those that subclasses of layers hold beside them."""
    return sum(4.0 * layer.weights for layer in layers if not layer.tied_to) + held_bytes(layers)


def weight_bytes(layers: Sequence[Layer], policy: Policy) -> float:
    """Return the bytes of all weights under a policy, with scales, zero points, codebooks and exponents, and with what stays in float."""
    owners = [layer for layer in layers if not layer.tied_to]
    stored = sum(policy[layer.name].weight.storage_bits(layer.weight_shape, layer.channel_axis) for layer in owners) / 8
    return stored + held_bytes(layers)


def held_bytes(layers: Sequence[Layer]) -> float:
    """Return the bytes of the parameters that subclasses of layers hold beside weight and bias: they stay in float32."""
    return sum(4.0 * layer.held_elements for layer in layers)


def average_bits(layers: Sequence[Layer], policy: Policy) -> dict[str, float]:
    """Return `bits_weight_avg`, the stored bits per weight with scales and codebooks counted, and `bits_activation_avg`, the
    element bits of the layers' inputs weighted by their size. Layers that are never called do not count."""
    called = [layer for layer in layers if layer.calls]
    owners = [layer for layer in called if not layer.tied_to]
    weights = sum(policy[layer.name].weight.storage_bits(layer.weight_shape, layer.channel_axis) for layer in owners)
    activations = sum(policy[layer.name].activation.bits * layer.in_elements for layer in called)
    return {
        "bits_weight_avg": weights / sum(layer.weights for layer in owners),
        "bits_activation_avg": activations / sum(layer.in_elements for layer in called),
    }
