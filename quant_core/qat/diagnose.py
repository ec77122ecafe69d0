"""The first layer of a network whose values are not finite."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quant_core.util.errors import InputError


class _NonFinite(Exception):  # noqa: N818 - it carries the answer
    """Stops the forward pass at the first non-finite value."""


def first_non_finite(model: nn.Module, run: Callable[[], object]) -> str:
    """Run `run` (it calls `model`) once more and return the first layer with NaN or infinity in its parameters, input or output."""
    leaves = {name: module for name, module in model.named_modules() if _is_layer(module)}
    handles = [module.register_forward_pre_hook(_before(name), prepend=True) for name, module in leaves.items()]
    handles += [module.register_forward_hook(_after(name)) for name, module in leaves.items()]
    try:
        with torch.no_grad():
            run()
    except _NonFinite as error:
        return str(error)
    except InputError as error:
        return str(error)
    finally:
        for handle in handles:
            handle.remove()
    return "every layer's output is finite, the loss itself is not"


def _is_layer(module: nn.Module) -> bool:
    """Tell whether `module` computes by itself: it has no children but those that quantize it."""
    return all(name == "parametrizations" or name.startswith("input_quantizer") for name, _ in module.named_children())


def _before(name: str) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        if not all(_finite(tensor) for tensor in module.parameters()):
            raise _NonFinite(f"layer {name!r}: its parameters are not finite")
        if not all(_finite(leaf) for leaf in tree_leaves(args)):
            raise _NonFinite(f"layer {name!r}: its input is not finite")

    return hook


def _after(name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _args: Any, outputs: Any) -> None:
        if not all(_finite(leaf) for leaf in tree_leaves(outputs)):
            raise _NonFinite(f"layer {name!r}: its output is not finite")

    return hook


def _finite(leaf: object) -> bool:
    return not isinstance(leaf, Tensor) or not leaf.is_floating_point() or bool(torch.isfinite(leaf).all())
