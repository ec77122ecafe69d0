"""The plain form of compressed-tensors' config groups: layers of one policy make one group."""

from collections.abc import Mapping
from typing import Any

from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec


def quantization_config(policies: Mapping[str, LayerPolicy]) -> dict[str, Any]:
    """Return the plain form of a `QuantizationConfig`: layers of one policy make one group."""
    groups: dict[LayerPolicy, list[str]] = {}
    for name, policy in policies.items():
        groups.setdefault(policy, []).append(name)
    ignored = [name for policy, names in groups.items() if policy.weight.is_float for name in names]
    schemes = [(policy, names) for policy, names in groups.items() if not policy.weight.is_float]
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {
            f"group_{i}": {
                "targets": names,
                "weights": arguments(policy.weight, weight=True),
                "input_activations": None if policy.activation.is_float else arguments(policy.activation, weight=False),
            }
            for i, (policy, names) in enumerate(schemes)
        },
        "ignore": ignored,
    }


def arguments(spec: QuantSpec, *, weight: bool) -> dict[str, Any]:
    """Return the plain form of `QuantizationArgs`."""
    if spec.format == "nvfp4":
        return _float4("tensor_group", 16, "torch.float8_e4m3fn")
    if spec.format == "mxfp4":
        return _float4("group", 32, "torch.uint8")
    arguments: dict[str, Any] = {
        "num_bits": spec.bits,
        "type": "int",
        "symmetric": spec.symmetric,
        "strategy": spec.granularity,
        "dynamic": not weight and (spec.dynamic or spec.granularity == "token"),
    }
    if spec.granularity == "group":
        arguments["group_size"] = spec.block
    if weight:
        arguments["observer"] = "mse" if spec.clipping in ("mse", "octav") else "minmax"
    return arguments


def _float4(strategy: str, size: int, scale: str) -> dict[str, Any]:
    common = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": False}
    return common | {"strategy": strategy, "group_size": size, "scale_dtype": scale}
