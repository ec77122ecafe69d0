"""Configurations of transformer runtimes, read by the libraries themselves where they are installed."""

import importlib
import importlib.util
import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from quant_core.spec.policy import parse_layer_policy
from search.exporters import torchao, vllm
from search.exporters.linear import public_names


def library(name: str, module: str) -> Any:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return importlib.import_module(module)


@pytest.fixture
def quiet() -> Any:
    """These libraries warn when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)


def test_torchao_builds_and_applies_what_was_written(quiet: None) -> None:
    core, api = library("torchao", "torchao.core.config"), library("torchao", "torchao.quantization")
    texts = {
        "a": "weight=int4:group32",
        "b": "weight=int3:channel:affine,activation=int8:token:affine",
        "c": "weight=float",
    }
    written = torchao.mapping({name: torchao.layer_config(parse_layer_policy(text)) for name, text in texts.items()})
    found = core.config_from_dict(written)
    a, b = found.fqn_to_config["a"], found.fqn_to_config["b"]
    assert isinstance(a, api.IntxWeightOnlyConfig)
    assert (a.weight_dtype, a.granularity) == (torch.int4, api.PerGroup(32))
    assert isinstance(b, api.Int8DynamicActivationIntxWeightConfig)
    assert (b.weight_dtype, b.weight_granularity, b.weight_mapping_type.name) == (torch.int3, api.PerAxis(0), "ASYMMETRIC")
    assert found.fqn_to_config["c"] is None
    model = nn.ModuleDict({name: nn.Linear(64, 8) for name in texts})
    before = model["c"].weight.clone()
    api.quantize_(model, found, filter_fn=None)
    assert type(model["a"].weight) is not nn.Parameter
    assert torch.equal(model["c"].weight, before)


def test_compressed_tensors_reads_what_was_written(quiet: None) -> None:
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
    found = kind.model_validate(written)
    groups = {tuple(each.targets): each for each in found.config_groups.values()}
    up = groups["layers.0.up", "layers.1.up"]
    assert (up.weights.num_bits, up.weights.strategy, up.weights.group_size, up.weights.observer) == (4, "group", 32, "mse")
    assert up.input_activations is None
    assert groups["layers.0.down",].input_activations.dynamic
    assert not groups["layers.1.down",].input_activations.dynamic
    assert (groups["fp4",].weights.type, groups["fp4",].weights.group_size) == ("float", 16)
    assert groups["mx",].weights.group_size == 32
    assert found.ignore == ["head"]


@pytest.mark.parametrize(
    ("check", "text", "message"),
    [
        (torchao.fault, "weight=int4:tensor", "weight int4:tensor; use int1 to int8 by channel or group"),
        (torchao.fault, "weight=int9:channel", "weight int9:channel"),
        (torchao.fault, "weight=int4:channel,activation=int8:token", "use int8:token:affine or float"),
        (torchao.fault, "weight=int4:group32", "groups of 32 do not divide 48 inputs; use int4:channel"),
        (vllm.fault, "weight=int3:channel", "use int4 or int8"),
        (vllm.fault, "weight=int4:group32", "groups of 32 do not divide 48 inputs"),
        (vllm.fault, "weight=float,activation=int8:token", "quantize the weight too"),
        (vllm.fault, "weight=int8:channel,activation=int4:token", "use int8:token, int8:tensor or float"),
    ],
)
def test_what_a_runtime_has_no_kernel_for_is_said(check: Any, text: str, message: str) -> None:
    assert message in check(parse_layer_policy(text), 48)


def test_names_are_those_of_the_transformers_model() -> None:
    transformers = pytest.importorskip("transformers")
    from quant_core.network.trace import trace

    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=8
    )

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.LlamaForCausalLM(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=x, use_cache=False).logits

    layers = trace(Wrapped().eval(), torch.zeros(1, 4, dtype=torch.long))
    names = public_names(Wrapped(), layers)
    assert names["model.model.layers.0.self_attn.q_proj"] == "model.layers.0.self_attn.q_proj"
    assert public_names(nn.Sequential(nn.Linear(2, 2)), layers)["model.lm_head"] == "model.lm_head"
