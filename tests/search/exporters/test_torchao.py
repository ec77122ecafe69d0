"""The torchao configuration, read and applied by torchao where it is installed."""

from typing import Any

import pytest
import torch
from torch import nn

from quant_core.spec.policy import parse_layer_policy
from search.exporters import torchao


def test_torchao_builds_and_applies_what_was_written(quiet: None, library: Any) -> None:
    core, api = library("torchao", "torchao.core.config"), library("torchao", "torchao.quantization")
    texts = {
        "a": "weight=int4:group32",
        "b": "weight=int3:channel:affine,activation=int8:token:affine",
        "c": "weight=float",
    }
    written = torchao.mapping({name: torchao.layer_config(parse_layer_policy(text)) for name, text in texts.items()})
    config = core.config_from_dict(written)
    a, b = config.fqn_to_config["a"], config.fqn_to_config["b"]
    assert isinstance(a, api.IntxWeightOnlyConfig)
    assert (a.weight_dtype, a.granularity) == (torch.int4, api.PerGroup(32))
    assert isinstance(b, api.Int8DynamicActivationIntxWeightConfig)
    assert (b.weight_dtype, b.weight_granularity, b.weight_mapping_type.name) == (torch.int3, api.PerAxis(0), "ASYMMETRIC")
    assert config.fqn_to_config["c"] is None
    model = nn.ModuleDict({name: nn.Linear(64, 8) for name in texts})
    before = model["c"].weight.clone()
    api.quantize_(model, config, filter_fn=None)
    assert type(model["a"].weight) is not nn.Parameter
    assert torch.equal(model["c"].weight, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight=int4:tensor", "weight int4:tensor; use int1 to int8 by channel or group"),
        ("weight=int9:channel", "weight int9:channel"),
        ("weight=int4:channel,activation=int8:token", "use int8:token:affine or float"),
        ("weight=int4:group32", "groups of 32 do not divide 48 inputs; use int4:channel"),
    ],
)
def test_unsupported_specs_are_named(text: str, message: str) -> None:
    assert message in torchao.fault(parse_layer_policy(text), 48)
