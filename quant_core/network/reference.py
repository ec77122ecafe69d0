"""The float network as it is measured: in eval mode, changed by no forward pass, and never the user's own object where it would be."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quant_core.network.forward import forward
from quant_core.util.errors import BitfrontError

SHOWN = 5


class NetworkModeWarning(UserWarning):
    """The network was given in a state in which it would be measured wrongly; the message says what was done."""


def reference_network(model: nn.Module) -> nn.Module:
    """Return the network to measure: `model` itself, or a copy where it is in train mode or its forward pass changes its weights.

    The copy is in eval mode, and its embeddings with `max_norm` hold rows that are renormalized already, as torch does in each lookup
    (in place, which would change the user's weights). The user's network keeps weights, buffers, modes and hooks.

    Raises:
        BitfrontError: the network cannot be copied.
    """
    training = [name or "the network itself" for name, module in model.named_modules() if module.training]
    renormalized = [name for name, module in model.named_modules() if _max_norm(module) is not None]
    if not training and not renormalized:
        return model
    try:
        reference = copy.deepcopy(model).eval()
    except Exception as error:
        raise BitfrontError(
            f"the network is in train mode and cannot be copied ({type(error).__name__}: {error}); call eval() on it before it is given."
        ) from error
    if training:
        warnings.warn(f"in train mode: {_listed(training)}; a copy in eval mode is measured.", NetworkModeWarning, stacklevel=3)
    for name in renormalized:
        _renormalize(reference.get_submodule(name))
    return reference


def _max_norm(module: nn.Module) -> float | None:
    return module.max_norm if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def _renormalize(module: Any) -> None:
    """Scale rows of a norm above `max_norm` as `torch.nn.functional.embedding` does, once and for all."""
    with torch.no_grad():
        torch.embedding_renorm_(module.weight.data, torch.arange(len(module.weight)), module.max_norm, module.norm_type)
    module.max_norm = None


def noisy_modules(model: nn.Module, inputs: Any) -> list[str]:
    """Return the innermost modules that give other outputs on equal inputs in two passes: dropout or noise that eval mode leaves active.

    Args:
        model: as it is measured.
        inputs: one batch.
    """
    records: tuple[dict[str, list[Tensor]], ...] = ({}, {})
    with torch.inference_mode():
        if torch.equal(forward(model, inputs), forward(model, inputs)):
            return []
        for record in records:
            _record_calls(model, inputs, record)
    first, second = records
    names = [key.removeprefix("out:") for key in first if key.startswith("out:")]
    fed_alike = [name for name in names if _equal(first[f"in:{name}"], second.get(f"in:{name}"))]
    noisy = [name for name in fed_alike if not _equal(first[f"out:{name}"], second.get(f"out:{name}"))]
    innermost = [name for name in noisy if not any(other != name and other.startswith(f"{name}." if name else "") for other in noisy)]
    return [name or "the network itself" for name in innermost]


def _record_calls(model: nn.Module, inputs: Any, record: dict[str, list[Tensor]]) -> None:
    """Keep the tensors that go into and come out of every module in one pass."""

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            record.setdefault(f"in:{name}", []).extend(leaf.clone() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            record.setdefault(f"out:{name}", []).extend(leaf.clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

        return hook

    handles = [module.register_forward_hook(keep(name), with_kwargs=True) for name, module in model.named_modules()]
    try:
        forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _equal(one: list[Tensor], other: list[Tensor] | None) -> bool:
    return other is not None and len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
