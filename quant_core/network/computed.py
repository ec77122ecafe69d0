"""Weights that are computed in each call (torch's parametrizations; weight norm, spectral norm and pruning by hooks), made plain
parameters of a copy."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def computed_weights(model: nn.Module) -> list[str]:
    """Return the names of the modules with weights that are computed in each call."""
    return [name for name, module in model.named_modules() if parametrize.is_parametrized(module) or _hooks(module)]


def make_plain(module: nn.Module) -> None:
    """Turn the computed weights of a module of a private copy, in eval mode, into parameters of their present values."""
    with torch.no_grad():
        for hook in _hooks(module).values():
            hook.remove(module)
        for number in _hooks(module):
            del module._forward_pre_hooks[number]
        if not parametrize.is_parametrized(module):
            return
        parametrizations: Any = module.parametrizations
        values = {key: getattr(module, key).detach().clone() for key in parametrizations}
        module.__class__ = parametrize.type_before_parametrizations(
            module
        )  # remove_parametrizations would break the user's: they share a class
        del module._modules["parametrizations"]
        for key, value in values.items():
            module.register_parameter(key, nn.Parameter(value))


def _hooks(module: nn.Module) -> dict[int, Any]:
    """Return the hooks of `torch.nn.utils.weight_norm`, `spectral_norm` and `prune`, by their number."""
    kinds = WeightNorm | SpectralNorm | BasePruningMethod
    return {number: hook for number, hook in module._forward_pre_hooks.items() if isinstance(hook, kinds)}
