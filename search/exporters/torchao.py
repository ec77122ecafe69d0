"""`torchao.json`: a `FqnToConfig`, one configuration per layer name, as `torchao.core.config.config_from_dict` reads it; and `torchao.pt`.

The configuration holds no weights: `torchao.quantization.quantize_` rounds those of the float network, by min and max and without
corrections. `torchao.pt` is a state with the weights of the policy.
"""

import copy
import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quant_core.network.forward import forward
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_text
from quant_core.util.quiet import quiet_library
from search.exporters import Bundle, Exported
from search.exporters.linear import float_embeddings, public_names, require_supported
from search.exporters.torchao_weights import FILE as WEIGHTS
from search.exporters.torchao_weights import write_weights
from search.exporters.verify import compare

FILE = "torchao.json"


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write the configuration; where torchao is installed build its objects from the file and run the network that they make.

    Raises:
        InputError: torchao has no configuration for the policy.
        BitfrontError: torchao does not take the configuration.
    """
    layers = require_supported(bundle, "torchao", fault)
    configs = {layer.name: layer_config(bundle.policy[layer.name]) for layer in layers}
    names = public_names(bundle.task.model, layers)
    write_text(folder / FILE, json.dumps(mapping({names[name]: config for name, config in configs.items()}), indent=1) + "\n")
    notes = float_embeddings(bundle)
    if importlib.util.find_spec("torchao") is None:
        return Exported((FILE,), {"layers": len(configs)}, (*notes, "torchao is not installed here, so the configuration was not tried"))
    read = json.loads((folder / FILE).read_text(encoding="utf-8"))
    with quiet_library():
        checks = _run(bundle, read, mapping(configs))
    checks |= write_weights(bundle, folder / WEIGHTS)
    note = f"torchao rounds by itself by {FILE}, by min and max: its figures have no prefix; weights_... are those of {WEIGHTS}"
    return Exported((FILE, WEIGHTS), {"layers": len(configs)} | checks, (*notes, note))


def fault(policy: LayerPolicy, inputs: int) -> str:
    """Return why torchao has no configuration for a linear layer of so many inputs, or ""."""
    weight, activation = policy.weight, policy.activation
    if weight.is_float and activation.is_float:
        return ""
    if weight.format != "int" or weight.bits > 8 or weight.granularity not in ("channel", "group"):
        return f"torchao has no configuration for weight {weight}; use int1 to int8 by channel or group"
    if weight.granularity == "group" and inputs % weight.block:
        return f"groups of {weight.block} do not divide {inputs} inputs; use int{weight.bits}:channel"
    form = (activation.format, activation.bits, activation.granularity, activation.symmetric)
    if not activation.is_float and form != ("int", 8, "token", False):
        return f"torchao has no configuration for activation {activation} with {weight}; use int8:token:affine or float"
    return ""


def layer_config(policy: LayerPolicy) -> dict[str, Any] | None:
    """Return the plain form of a layer's configuration, or None for float."""
    weight, activation = policy.weight, policy.activation
    if weight.is_float:
        return None
    by_group = weight.granularity == "group"
    size = _object("PerGroup", 1, {"group_size": weight.block}) if by_group else _object("PerAxis", 1, {"axis": 0})
    common = {"weight_dtype": {"_type": "torch.dtype", "_data": f"int{weight.bits}"}}
    if activation.is_float:
        return _object("IntxWeightOnlyConfig", 2, common | {"granularity": size, "mapping_type": _mapping_type(weight.symmetric)})
    return _object(
        "Int8DynamicActivationIntxWeightConfig",
        2,
        common
        | {
            "weight_granularity": size,
            "weight_mapping_type": _mapping_type(weight.symmetric),
            "act_mapping_type": _mapping_type(symmetric=False),
        },
    )


def mapping(configs: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Return the plain form of a `FqnToConfig`."""
    return _object("FqnToConfig", 1, {"fqn_to_config": dict(configs)})


def _object(kind: str, version: int, data: dict[str, Any]) -> dict[str, Any]:
    return {"_type": kind, "_version": version, "_data": data}


def _mapping_type(symmetric: bool) -> dict[str, str]:
    return {"_type": "MappingType", "_data": "SYMMETRIC" if symmetric else "ASYMMETRIC"}


def _run(bundle: Bundle, written: dict[str, Any], own_names: dict[str, Any]) -> dict[str, float | str]:
    """Build torchao's objects from the file, quantize a copy of the float network and measure it on the test split."""
    try:
        read: Any = importlib.import_module("torchao.core.config").config_from_dict
        read(written)
        model = copy.deepcopy(bundle.task.model)
        importlib.import_module("torchao.quantization").quantize_(model, read(own_names), filter_fn=None)
    except Exception as error:  # its errors share no base class
        raise BitfrontError(f"torchao does not take {FILE}: {type(error).__name__}: {error}") from error
    return compare(bundle, lambda inputs: forward(model, inputs)).checks
