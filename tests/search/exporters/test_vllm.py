"""The compressed-tensors configuration, read by compressed-tensors where it is installed."""

from typing import Any

import pytest

from quant_core.spec.policy import parse_layer_policy
from search.exporters import vllm


def test_compressed_tensors_reads_what_was_written(quiet: None, library: Any) -> None:
    kind = library("compressed_tensors", "compressed_tensors.quantization").QuantizationConfig
    texts = {
        "layers.0.up": "weight=int4:group32:mse",
        "layers.1.up": "weight=int4:group32:mse",
        "layers.0.down": "weight=int8:channel,activation=int8:token",
        "layers.1.down": "weight=int8:channel,activation=int8:tensor",
        "fp4": "weight=nvfp4",
        "mx": "weight=mxfp4",
        "head": "weight=float",
    }
    written = vllm.quantization_config({name: parse_layer_policy(text) for name, text in texts.items()})
    config = kind.model_validate(written)
    groups = {tuple(group.targets): group for group in config.config_groups.values()}
    up = groups["layers.0.up", "layers.1.up"]
    assert (up.weights.num_bits, up.weights.strategy, up.weights.group_size, up.weights.observer) == (4, "group", 32, "mse")
    assert up.input_activations is None
    assert groups["layers.0.down",].input_activations.dynamic
    assert not groups["layers.1.down",].input_activations.dynamic
    assert (groups["fp4",].weights.type, groups["fp4",].weights.group_size) == ("float", 16)
    assert groups["mx",].weights.group_size == 32
    assert config.ignore == ["head"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight=int3:channel", "use int4 or int8"),
        ("weight=int4:group32", "groups of 32 do not divide 48 inputs"),
        ("weight=float,activation=int8:token", "quantize the weight too"),
        ("weight=int8:channel,activation=int4:token", "use int8:token, int8:tensor or float"),
    ],
)
def test_unsupported_specs_are_named(text: str, message: str) -> None:
    assert message in vllm.fault(parse_layer_policy(text), 48)
