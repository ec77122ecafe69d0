"""Golden check of `mpic`: multiply-accumulates per cycle of every pair of codes."""

from hw_models.device import Device
from hw_models.models import GoldenComparison, compare_points
from hw_models.schema.codes import spec_of
from hw_models.schema.device_file import Golden
from hw_models.shapes import layer_of
from hw_models.table import cost_policy
from quant_core.spec.policy import LayerPolicy


def rates_of_uniform(device: Device, golden: Golden) -> GoldenComparison:
    """Check the MACs per cycle that the cost of a layer comes to; a point is named by its pair of codes."""
    layer = layer_of({"kind": "conv", "in_channels": "16", "out_channels": "32", "kernel": "3", "in_size": "16"})
    predicted = []
    for point in golden.points:
        weight, activation = map(spec_of, point.name.split("/"))
        latency = cost_policy(device, (layer,), {layer.name: LayerPolicy(weight, activation)})["latency_s"]
        predicted.append(device.batch * layer.macs / (latency * device.clock_hz))
    return compare_points(golden, predicted)
