"""`counts`: MACs, bit operations, weight bytes, peak activation bytes. No time and no energy: it is no machine."""

from typing import TYPE_CHECKING

import numpy as np

from hw_models.models import LayerCost, LayerModel, Model, Modes, Points
from hw_models.schema.device_file import Compute, Golden
from hw_models.shapes import read_layers
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, make

if TYPE_CHECKING:
    from hw_models.device import Device


class CountsCompute(Compute):
    """Nothing is measured."""


def build(device: "Device") -> LayerModel:
    """Return a model that adds nothing to the counts that every table holds."""
    del device

    def cost(layer: Layer, modes: Modes) -> LayerCost:
        del layer, modes
        return LayerCost()

    return cost


def uniform_counts(device: "Device", golden: Golden) -> Points:
    """Check a metric of uniform policies: a point gives `bits` and, where they differ, `ends_bits` of the first and last layer."""
    layers = read_layers(device.folder / golden.file)
    predicted = []
    for point in golden.points:
        inner, ends = (_both(int(point.given.get(key, point.given["bits"]))) for key in ("bits", "ends_bits"))
        policy = {each.name: ends if each in (layers[0], layers[-1]) else inner for each in layers}
        predicted.append(device.cost(layers, policy)[golden.metric])
    expected = np.array([point.expected for point in golden.points])
    return Points(tuple(point.name for point in golden.points), expected, np.array(predicted))


def _both(bits: int) -> LayerPolicy:
    """Return the policy with integers of `bits` for weights and activations; 32 is float."""
    return LayerPolicy() if bits == FLOAT.bits else LayerPolicy(make("int", bits, "channel"), make("int", bits, "tensor"))


MODEL = Model(CountsCompute, build, "bit operations = MACs x weight bits x activation bits", {"uniform_counts": uniform_counts})
