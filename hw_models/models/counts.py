"""`counts`: MACs, bit operations, weight bytes, peak activation bytes. No time and no energy: it is no machine."""

from hw_models.device import Device
from hw_models.models import LayerChoices, LayerCost, LayerModel, Model
from hw_models.schema.device_file import Compute
from quant_core.spec.layer import Layer


class CountsCompute(Compute):
    """Nothing is measured."""


def build(device: Device) -> LayerModel:
    """Return a model that adds nothing to the counts that every table holds."""
    del device

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        del layer, choices
        return LayerCost()

    return cost


MODEL = Model(
    CountsCompute,
    build,
    "bit operations = MACs x weight bits x activation bits",
    {"uniform_counts": "hw_models.validation.counts:uniform_counts"},
    moves="none",
)
