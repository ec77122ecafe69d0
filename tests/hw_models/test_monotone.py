"""For any layer, on every device with a model: more bits are never cheaper, and a plateau costs what it runs as."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.loading import device_names, load_device
from hw_models.schema.codes import code_bits, spec_of
from hw_models.shapes import layer_of
from hw_models.table import build_table, cost_policy
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy

DEVICES = tuple(name for name in device_names() if load_device(name).file.identity.kind not in ("lut", "bitfusion"))
CODES = ("int1", "int2", "int3", "int4", "int5", "int8", "int16", "float")


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    kind = draw(st.sampled_from(["conv", "depthwise", "linear"]))
    ci, co = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    row = {"kind": kind, "in_channels": ci, "out_channels": ci if kind == "depthwise" else co}
    row |= {"kernel": 1 if kind == "linear" else draw(st.sampled_from([1, 3, 5])), "in_size": draw(st.integers(1, 40))}
    row |= {"stride": 1 if kind == "linear" else draw(st.integers(1, 2))}
    layer = layer_of({key: str(value) for key, value in row.items()})
    return replace(layer, live_elements=draw(st.integers(0, 1000)))


@pytest.mark.parametrize("name", DEVICES)
@settings(max_examples=25)
@given(layer=layers())
def test_more_bits_are_never_cheaper_for_any_layer(name: str, layer: Layer) -> None:
    device = load_device(name)
    legal = device.legal(layer)
    choices = [LayerPolicy(spec_of(w), spec_of(a)) for w in CODES for a in CODES]
    choices = [choice for choice in choices if legal.allows(choice)]
    table = build_table(device, (layer,), {layer.name: choices})
    # with the scales: a weight of one element takes fewer bits in float, which has no scale, than as an integer
    stored = [choice.weight.storage_bits(layer.weight_shape) for choice in choices]
    bits = np.array([(choice.weight.bits, total, choice.activation.bits) for choice, total in zip(choices, stored, strict=True)])
    wider = (bits[None, :, :] >= bits[:, None, :]).all(axis=2)
    for metric, values in table.values.items():
        cheaper = wider & (values[0][None, :] < values[0][:, None] * (1 - 1e-12))
        assert not cheaper.any(), (metric, [str(choices[i]) for i in np.argwhere(cheaper)[0]])


@pytest.mark.parametrize("name", DEVICES)
def test_a_plateau_costs_the_time_and_energy_of_what_it_runs_as(name: str) -> None:
    device = load_device(name)
    layer = layer_of({"kind": "conv", "in_channels": "32", "out_channels": "48", "kernel": "3", "in_size": "14"})
    legal = device.legal(layer)
    choices = [LayerPolicy(spec_of(w), spec_of(a)) for w in legal.weights for a in legal.activations]
    for choice in filter(legal.allows, choices):
        weight, activation = legal.run_as(choice) or ("", "")
        assert code_bits(weight) >= choice.weight.bits
        native = LayerPolicy(spec_of(weight), spec_of(activation))
        own, run = (cost_policy(device, (layer,), {layer.name: policy}) for policy in (choice, native))
        if name in ("a100", "h100", "h200", "b200", "generic-cpu", "horowitz-45nm"):  # these move the bits that are stored
            assert all(own[metric] <= run[metric] for metric in {"latency_s", "energy_j"} & set(own))
        else:
            assert all(own[metric] == run[metric] for metric in {"latency_s", "energy_j"} & set(own))
