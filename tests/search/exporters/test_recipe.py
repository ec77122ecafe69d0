"""The recipe for llm-compressor: YAML, its modifiers, and its own objects where it is installed."""

from pathlib import Path

import pytest

from quant_core.spec.policy import parse_layer_policy
from search.exporters.recipe import recipe, write_recipe

POLICIES = {
    "layers.0.q": parse_layer_policy("weight=int4:group32:mse"),
    "layers.1.q": parse_layer_policy("weight=int4:group32:mse"),
    "layers.0.up": parse_layer_policy("weight=int2:channel:gptq"),
    "layers.1.up": parse_layer_policy("weight=int8:channel,activation=int8:token"),
    "lm_head": parse_layer_policy("weight=float"),
}


def test_layers_that_gptq_rounds_have_a_modifier_of_their_own() -> None:
    made = recipe(POLICIES)
    assert made["GPTQModifier"]["ignore"] == ["layers.0.q", "layers.1.q", "layers.1.up", "lm_head"]
    groups = made["QuantizationModifier"]["config_groups"]
    assert [(group["targets"], group["weights"]["num_bits"]) for group in groups.values()] == [
        (["layers.0.q", "layers.1.q"], 4),
        (["layers.1.up"], 8),
    ]


def test_it_is_yaml_and_says_whether_llm_compressor_took_it(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    check, notes = write_recipe(tmp_path / "recipe.yaml", POLICIES)
    read = yaml.safe_load((tmp_path / "recipe.yaml").read_text())["default_stage"]["default_modifiers"]
    assert read == recipe(POLICIES)
    parsed = check == "parsed by llmcompressor.recipe.Recipe"
    assert parsed or (check, "not parsed by it" in notes[0]) == ("written, not parsed", True)
