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
        ("weight=int8:channel,activation=int8:tensor:dynamic", "activation int8:tensor:dynamic; use int8:token, int8:tensor or float"),
        ("weight=int4:channel:affine", "affine weight int4:channel:affine; use a symmetric one, int4:channel"),
        ("weight=int8:tensor", "weight int8:tensor with activation float; use int8:channel or groups"),
        ("weight=int8:group16,activation=int8:token", "weight int8:group16 with activation int8:token; use int8:channel"),
        ("weight=int4:channel,activation=int8:tensor", "weight int4:channel with activation int8:tensor; use int8:token or float"),
        ("weight=int4:tensor,activation=int8:token", "use int4:channel with int8:token"),
        ("weight=nvfp4,activation=int8:token", "activation int8:token with weight nvfp4; use float"),
    ],
)
def test_unsupported_specs_are_named(text: str, message: str) -> None:
    assert message in vllm.fault(parse_layer_policy(text), 48)


ACTIVATIONS = ("float", "int8:token", "int8:tensor", "int8:tensor:affine", "int8:token:affine", "int8:tensor:dynamic")
TOKEN = {"int8:token", "int8:token:affine"}
STATIC = {"int8:tensor", "int8:tensor:affine"}
ACCEPTED = {  # of each weight, by the conditions of vLLM's `CompressedTensorsConfig`
    "float": {"float"},
    "int4:tensor": set(),
    "int8:tensor": TOKEN | STATIC,
    "int4:channel": {"float"} | TOKEN,
    "int8:channel": {"float"} | TOKEN | STATIC,
    "int4:group32": {"float"} | TOKEN,
    "int8:group32": {"float"},
    "int4:channel:affine": set(),
    "int8:channel:affine": set(),
    "int8:tensor:affine": set(),
    "int4:group32:affine": set(),
    "nvfp4": {"float"},
    "mxfp4": {"float"},
}


@pytest.mark.parametrize("weight", ACCEPTED)
def test_what_vllm_has_a_scheme_for_is_accepted_and_nothing_else(weight: str) -> None:
    policies = {activation: parse_layer_policy(f"weight={weight},activation={activation}") for activation in ACTIVATIONS}
    assert {activation for activation, policy in policies.items() if not vllm.fault(policy, 128)} == ACCEPTED[weight]
