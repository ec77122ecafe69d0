"""`quantization_config.json`: compressed-tensors config groups, as checkpoints for vLLM have them, and `recipe.yaml` for llm-compressor.

They hold no weights: llm-compressor rounds those of the float network. `compressed-tensors` is the format that holds them.
"""

import importlib
import importlib.util
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quant_core.network.agreement import FUSED, agreeing_layers
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import write_text
from quant_core.util.text import listed
from search.evaluation.measure import first_inputs
from search.exporters import Bundle, Exported
from search.exporters.linear import float_embeddings, public_names, require_supported
from search.exporters.recipe import FILE as RECIPE
from search.exporters.recipe import write_recipe
from search.exporters.schemes import quantization_config

FILE = "quantization_config.json"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write one config group per layer policy; where compressed-tensors is installed build its objects from the file.

    Raises:
        InputError: compressed-tensors has no scheme for the policy.
        BitfrontError: it does not take the file, or reads other values from it.
    """
    layers = require_supported(bundle, "vLLM", fault)
    _require_fused_alike(bundle, layers)
    names = public_names(bundle.task.model, layers)
    policies = {names[layer.name]: bundle.policy[layer.name] for layer in layers}
    config = quantization_config(policies)
    write_text(folder / FILE, json.dumps(config, indent=1) + "\n")
    checks: dict[str, float | str] = {"layers": len(layers), "config_groups": len(config["config_groups"])}
    checks["recipe"], unread = write_recipe(folder / RECIPE, policies)
    notes = (*float_embeddings(bundle), *unread, "vLLM needs a GPU and was not run: the configuration was checked, not its accuracy")
    if importlib.util.find_spec("compressed_tensors") is None:
        return Exported((FILE, RECIPE), checks, (*notes, "compressed-tensors is not installed here, so the configuration was not tried"))
    _validate(json.loads((folder / FILE).read_text(encoding="utf-8")))
    return Exported((FILE, RECIPE), checks | {"validated_by": "compressed_tensors.quantization.QuantizationConfig"}, notes)


def _require_fused_alike(bundle: Bundle, layers: Sequence[Layer]) -> None:
    """Refuse different policies of layers that vLLM computes as one product: q, k and v, gate and up.

    Raises:
        InputError: with the first such layers.
    """
    for group in agreeing_layers(bundle.task.model, layers, first_inputs(bundle.task))[FUSED]:
        if len({bundle.policy[name] for name in group}) > 1:
            raise InputError(
                f"layers {listed(group, 6)}: vLLM computes them as one product and needs one choice for all, and this policy has several; "
                f'search with [export] formats = ["vllm"], which ties them.'
            )


def fault(policy: LayerPolicy, inputs: int) -> str:
    """Return why compressed-tensors in vLLM has no scheme for a linear layer of so many inputs, or "".

    These are the conditions of `CompressedTensorsConfig._get_scheme_from_parts` (vllm/model_executor/layers/quantization/
    compressed_tensors/compressed_tensors.py): W4A16 and W8A16 by channel or group; W8A8 with one weight scale per tensor or channel and
    inputs by static tensor or dynamic token; W4A8 by channel or group with inputs by dynamic token; NVFP4 and MXFP4 weights with 16-bit
    inputs. Integer weights are symmetric, integer inputs either.
    """
    weight, activation = policy.weight, policy.activation
    if weight.is_float:
        return "" if activation.is_float else f"activation {activation} with a float weight has no scheme; quantize the weight too"
    if weight.format in ("nvfp4", "mxfp4"):
        return "" if activation.is_float else f"vLLM has no scheme for activation {activation} with weight {weight}; use float"
    if weight.format != "int" or weight.bits not in (4, 8) or weight.granularity not in ("tensor", "channel", "group"):
        return f"vLLM has no kernel for weight {weight}; use int4 or int8 by tensor, channel or group, nvfp4 or mxfp4"
    if not weight.symmetric:
        return f"vLLM has no scheme for affine weight {weight}; use a symmetric one, int{weight.bits}:channel"
    if weight.granularity == "group" and inputs % weight.block:
        return f"groups of {weight.block} do not divide {inputs} inputs; use int{weight.bits}:channel"
    return _integer_fault(weight, activation)


def _integer_fault(weight: QuantSpec, activation: QuantSpec) -> str:
    """Return why there is no scheme for inputs `activation` with a symmetric weight of 4 or 8 bits, or ""."""
    token = activation.granularity == "token"
    static = activation.granularity == "tensor" and not activation.dynamic
    if not activation.is_float and (activation.format != "int" or activation.bits != 8 or not (token or static)):
        return f"vLLM has no kernel for activation {activation}; use int8:token, int8:tensor or float"
    pair = f"vLLM has no scheme for weight {weight} with activation {activation}"
    if activation.is_float:
        return f"{pair}; use int{weight.bits}:channel or groups" if weight.granularity == "tensor" else ""
    if weight.bits == 8:
        return f"{pair}; use int8:channel, or float activations" if weight.granularity == "group" else ""
    if weight.granularity == "tensor":
        return f"{pair}; use int4:channel with int8:token"
    return "" if token else f"{pair}; use int8:token or float"


def _validate(config: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind: Any = importlib.import_module("compressed_tensors.quantization").QuantizationConfig
            read = kind.model_validate(config).model_dump()
    except Exception as error:  # pydantic's and its own
        raise BitfrontError(f"compressed-tensors does not take {FILE}: {error}") from error
    for name, group in config["config_groups"].items():
        again = read["config_groups"][name]
        if again["targets"] != group["targets"] or again["weights"]["num_bits"] != group["weights"]["num_bits"]:
            raise BitfrontError(f"compressed-tensors reads {name} of {FILE} as {again}.")
