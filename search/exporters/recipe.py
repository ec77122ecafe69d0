"""`recipe.yaml`: the policy as llm-compressor runs it. It rounds the float weights by itself, with its own observers."""

import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_text
from search.exporters.schemes import quantization_config

FILE = "recipe.yaml"
_HEAD = """\
# from llmcompressor import oneshot
# oneshot(model=MODEL, recipe="recipe.yaml", dataset=DATASET, output_dir=FOLDER)
default_stage:
  default_modifiers:
"""


def write_recipe(path: Path, policies: Mapping[str, LayerPolicy]) -> tuple[str, tuple[str, ...]]:
    """Write the recipe of layers by their names in the transformers network; where llm-compressor is installed build its objects from it.

    Layers whose policy rounds by GPTQ go to its `GPTQModifier`, the others to its `QuantizationModifier`.

    Returns:
        the check, and a note where llm-compressor is not installed.

    Raises:
        BitfrontError: llm-compressor does not take the recipe, or reads other bits from it.
    """
    modifiers = recipe(policies)
    write_text(path, _HEAD + "".join(_modifier(name, config) for name, config in modifiers.items()))
    if find_spec("llmcompressor") is None:
        return "written, not parsed", ("llm-compressor is not installed here, so recipe.yaml was not parsed by it",)
    _parse(path, modifiers)
    return "parsed by llmcompressor.recipe.Recipe", ()


def recipe(policies: Mapping[str, LayerPolicy]) -> dict[str, dict[str, Any]]:
    """Return modifier -> its config groups and the layers that it leaves alone."""
    quantized = {name: policy for name, policy in policies.items() if not policy.weight.is_float}
    by_gptq = {name for name, policy in quantized.items() if policy.weight.rounding == "gptq"}
    made = {}
    for modifier, taken in (("QuantizationModifier", quantized.keys() - by_gptq), ("GPTQModifier", by_gptq)):
        if taken:
            groups = quantization_config({name: policy for name, policy in quantized.items() if name in taken})["config_groups"]
            made[modifier] = {"ignore": [name for name in policies if name not in taken], "config_groups": groups}
    return made


def _modifier(name: str, config: Mapping[str, Any]) -> str:
    """Return YAML: blocks down to a group's parts, which are JSON (JSON is YAML)."""
    lines = [f"    {name}:", f"      ignore: {json.dumps(config['ignore'])}", "      config_groups:"]
    for group, parts in config["config_groups"].items():
        lines.append(f"        {group}:")
        lines += [f"          {part}: {json.dumps(value)}" for part, value in parts.items()]
    return "\n".join(lines) + "\n"


def _parse(path: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read: Any = import_module("llmcompressor.recipe").Recipe.create_instance(str(path))
    except Exception as error:  # pydantic's and its own
        raise BitfrontError(f"llm-compressor does not take {path.name}: {type(error).__name__}: {error}") from error
    modifiers = {type(modifier).__name__: modifier for modifier in read.modifiers}
    for name, config in wanted.items():
        groups = modifiers[name].config_groups if name in modifiers else {}
        for group, parts in config["config_groups"].items():
            again = groups.get(group)
            if again is None or list(again.targets) != parts["targets"] or again.weights.num_bits != parts["weights"]["num_bits"]:
                raise BitfrontError(f"llm-compressor reads {group} of {path.name} as {again}.")
