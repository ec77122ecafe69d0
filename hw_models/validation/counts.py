"""Golden check of `counts`: a metric of uniform policies over a whole network."""

from hw_models.device import Device
from hw_models.models import GoldenComparison, compare_points
from hw_models.schema.device_file import Golden
from hw_models.shapes import read_layers
from hw_models.table import cost_policy
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, make


def uniform_counts(device: Device, golden: Golden) -> GoldenComparison:
    """Check a metric of uniform policies: a point gives `bits` and, where they differ, `ends_bits` of the first and last layer."""
    layers = read_layers(device.folder / golden.file)
    predicted = []
    for point in golden.points:
        inner, ends = (_both(int(point.given.get(key, point.given["bits"]))) for key in ("bits", "ends_bits"))
        policy = {layer.name: ends if layer in (layers[0], layers[-1]) else inner for layer in layers}
        predicted.append(cost_policy(device, layers, policy)[golden.metric])
    return compare_points(golden, predicted)


def _both(bits: int) -> LayerPolicy:
    """Return the policy with integers of `bits` for weights and activations; 32 is float."""
    return LayerPolicy() if bits == FLOAT.bits else LayerPolicy(make("int", bits, "channel"), make("int", bits, "tensor"))
