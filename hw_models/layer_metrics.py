"""The metrics of one layer under its choices: the counts that every device gives, and the time and energy of its model."""

from functools import cache

import numpy as np

from hw_models.models import FloatArray, LayerChoices, LayerCost
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec


def layer_metrics(layer: Layer, run: LayerChoices, detail: LayerCost) -> dict[str, FloatArray]:
    """Return metric -> [K] for one layer: the counts that every device gives, and the time and energy of the model."""
    count = len(run.policies)
    w_bits = np.array([choice.weight.bits for choice in run.policies], dtype=np.float64)
    a_bits = np.array([choice.activation.bits for choice in run.policies], dtype=np.float64)
    metrics = {
        "weight_bytes": 4.0 * layer.held_elements + (np.zeros(count) if layer.tied_to else run.weight_bits / 8),
        "peak_activation_bytes": np.array([live_bits(layer, choice) / 8 if layer.calls else 0.0 for choice in run.policies]),
        "macs": np.full(count, float(layer.macs)),
        "bit_ops": layer.macs * w_bits * a_bits,
    }
    if detail.latency_s is not None:
        metrics["latency_s"] = detail.latency_s * layer.calls
    if detail.energy_j:
        metrics["energy_j"] = np.sum(list(detail.energy_j.values()), axis=0) * layer.calls
    return metrics


@cache
def stored_bits(spec: QuantSpec) -> float:
    """Return the bits that one more element of an activation takes, with its share of the scales of blocks."""
    block = spec.block or 1
    return (spec.storage_bits((1, 2 * block)) - spec.storage_bits((1, block))) / block


def live_bits(layer: Layer, policy: LayerPolicy) -> float:
    """Return the bits of activations alive while a layer runs: input, output and residual branches; depthwise works in place.

    All are counted at the bits of the layer's own input activation. What an embedding looks up has the bits of its weight.
    """
    if layer.kind == "embedding":
        return (layer.out_elements + layer.live_elements) * stored_bits(policy.weight)
    ends = (layer.in_elements, layer.out_elements)
    elements = (max(ends) if layer.kind == "depthwise" else sum(ends)) + layer.live_elements
    return elements * stored_bits(policy.activation)
