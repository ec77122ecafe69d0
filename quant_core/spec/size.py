"""Sizes that follow from layers and a policy alone. A weight that several layers share counts once."""

from collections.abc import Sequence

from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy


def float_bytes(layers: Sequence[Layer]) -> float:
    """Return the bytes of all weights in float32."""
    return sum(4.0 * each.weights for each in layers if not each.tied_to)


def weight_bytes(layers: Sequence[Layer], policy: Policy) -> float:
    """Return the bytes of all weights under a policy, with scales, zero points, codebooks and exponents."""
    owners = [each for each in layers if not each.tied_to]
    return sum(policy[each.name].weight.storage_bits(each.weight_shape, each.channel_axis) for each in owners) / 8


def average_bits(layers: Sequence[Layer], policy: Policy) -> dict[str, float]:
    """Return `bits_weight_avg`, the stored bits per weight with scales and codebooks counted, and `bits_activation_avg`, the
    element bits of the layers' inputs weighted by their size. Layers that are never called do not count."""
    called = [each for each in layers if each.calls]
    owners = [each for each in called if not each.tied_to]
    weights = sum(policy[each.name].weight.storage_bits(each.weight_shape, each.channel_axis) for each in owners)
    activations = sum(policy[each.name].activation.bits * each.in_elements for each in called)
    return {
        "bits_weight_avg": weights / sum(each.weights for each in owners),
        "bits_activation_avg": activations / sum(each.in_elements for each in called),
    }
