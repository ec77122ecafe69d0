"""The parameters of the layers of the engine's private network: checked, given to each layer as its own, read back."""

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from quant_core.ptq.store import QuantizedWeight
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util import rng
from quant_core.util.errors import InputError
from quant_core.util.text import listed


def seeded(name: str, spec: QuantSpec) -> torch.Generator:
    """Return the random numbers of one layer under one spec: the same in every process."""
    digest = hashlib.sha256(f"{name}|{spec}".encode()).digest()
    return rng.generator(int.from_bytes(digest[:7]))


def require_plain_weight(name: str, module: nn.Module) -> None:
    """Refuse a weight that is computed in each call, and parameters that are not finite.

    Raises:
        InputError: with the layer's name.
    """
    if module._parameters.get("weight") is None:
        advice = "fix it with torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.remove_weight_norm"
        raise InputError(f"layer {name!r}: its weight is no parameter but computed in each call; {advice}.")
    for which, parameter in module.named_parameters(recurse=False):
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"layer {name!r}: its {which} (with its batch norm folded in) holds NaN or infinity; repair the network.")


def require_same_layers(policy: Collection[str], layers: Collection[str]) -> None:
    """Refuse a policy for other layers.

    Raises:
        InputError: with the first one that differs.
    """
    for names, others, where in ((policy, layers, "the network"), (layers, policy, "the policy")):
        for name in names:
            if name not in others:
                raise InputError(f"the policy is for other layers: {name!r} is not in {where}; layers: {listed(layers)}.")


def own_parameters(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Give the module parameters of its own (a tied weight can then be set per layer) and return their float values."""
    weight, bias = module.get_parameter("weight").detach(), module._parameters.get("bias")
    module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return weight, None if bias is None else bias.detach()


def installed(module: nn.Module) -> QuantizedWeight:
    """Return the weight and the bias that the module computes with now."""
    bias = module._parameters.get("bias")
    return QuantizedWeight(module.get_parameter("weight").detach(), None if bias is None else bias.detach())


def unshare(modules: Mapping[str, nn.Module]) -> None:
    """Copy the parameters of layers, as they are to be written to; tied ones stay tied."""
    for parameter in {id(parameter): parameter for module in modules.values() for parameter in module.parameters(recurse=False)}.values():
        parameter.data = parameter.data.clone()
