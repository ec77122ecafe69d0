"""The float network as it is measured: in eval mode, with plain weights, and never the user's own object where it would be changed."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves

from quant_core.network.computed import computed_weights, make_plain
from quant_core.network.copies import sharing_copy
from quant_core.network.forward import first_example, forward
from quant_core.network.padding import nesting_encoders, without_nesting
from quant_core.util.errors import BitfrontError, BitfrontWarning, InputError
from quant_core.util.rng import repeatable
from quant_core.util.text import listed

SHOWN = 5


class NetworkModeWarning(BitfrontWarning):
    """The network was given in a state in which it would be measured wrongly; the message says what was done."""


def reference_network(model: nn.Module, *, quiet: bool = False) -> nn.Module:
    """Return the network to measure: `model` itself, or a copy where it is in train mode or its forward pass computes or changes weights.

    The copy is in eval mode. Its embeddings with `max_norm` hold rows that are renormalized already, as torch does in each lookup
    (in place, which would change the user's weights). Weights that are computed in each call (`weight_norm`, `spectral_norm`, other
    parametrizations, pruning) are parameters with the computed values. torch's encoders nest no tensors. Its other parameters lie where
    the user's do (see `sharing_copy`). Of what torch.compile made it is the network that was compiled. The user's network keeps weights,
    buffers, modes and hooks. A `NetworkModeWarning` names the modules whose mode makes a difference, and those with computed weights;
    `quiet` leaves it out.

    Raises:
        InputError: a part of it was compiled by torch.jit.
        BitfrontError: the network cannot be copied.
    """
    model = uncompiled(model)
    training = [(name, module) for name, module in model.named_modules() if module.training]
    renormalized = [name for name, module in model.named_modules() if _max_norm(module) is not None]
    computed, nesting = computed_weights(model), nesting_encoders(model)
    _require_python(model)
    if not training and not renormalized and not computed and not nesting:
        return model
    try:
        reference = sharing_copy(model).eval()
    except Exception as error:
        state, advice = (
            ("is in train mode", "call eval() on it before it is given")
            if training
            else ("computes weights or nests tensors in each call", "remove parametrizations, or set enable_nested_tensor=False")
        )
        raise BitfrontError(f"the network {state} and cannot be copied ({type(error).__name__}: {error}); {advice}.") from error
    for name in computed:
        make_plain(reference.get_submodule(name))
    for name in nesting:
        without_nesting(reference.get_submodule(name))
    affected = [name or "the network itself" for name, module in training if _depends_on_mode(module)]
    if affected and not quiet:
        warnings.warn(f"in train mode: {listed(affected, SHOWN)}; a copy in eval mode is measured.", NetworkModeWarning, stacklevel=3)
    if computed and not quiet:
        text = (
            f"weights that are computed in each call: {listed(computed, SHOWN)}; a copy with the computed values is measured and exported."
        )
        warnings.warn(text, NetworkModeWarning, stacklevel=3)
    for name in renormalized:
        _renormalize(reference.get_submodule(name))
    return reference


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network that `torch.compile` was given: hooks and traces see its modules, and other policies compile nothing anew."""
    while type(model).__qualname__ == "OptimizedModule" and type(model).__module__ == "torch._dynamo.eval_frame":
        model = model.get_submodule("_orig_mod")
    return model


def _require_python(model: nn.Module) -> None:
    """Refuse modules whose weights and calls cannot be reached.

    Raises:
        InputError: one was compiled by TorchScript.
    """
    scripted = next((name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)), None)
    if scripted is not None:
        where = f"module {scripted!r}" if scripted else "the network"
        raise InputError(
            f"{where} was compiled by torch.jit, so its weights cannot be quantized; give the Python module that it was made of."
        )


def _depends_on_mode(module: nn.Module) -> bool:
    """Tell whether a module's forward pass is another one in train mode: normalization, dropout, or code that reads `training`."""
    if isinstance(module, _BatchNorm | _InstanceNorm | _DropoutNd | nn.RReLU):
        return True
    code = getattr(type(module).forward, "__code__", None)
    if type(module).__module__.startswith("torch.nn."):
        return bool(getattr(module, "dropout", 0))
    return code is not None and "training" in code.co_names


def _max_norm(module: nn.Module) -> float | None:
    return module.max_norm if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def _renormalize(module: Any) -> None:
    """Scale rows of a norm above `max_norm` as `torch.nn.functional.embedding` does, once and for all."""
    with torch.no_grad():
        module.weight.data = module.weight.data.clone()
        rows = torch.arange(len(module.weight), device=module.weight.device)
        torch.embedding_renorm_(module.weight.data, rows, module.max_norm, module.norm_type)
    module.max_norm = None


def noisy_modules(model: nn.Module, inputs: Any) -> list[str]:
    """Return the innermost modules that give other outputs on equal inputs in two passes: dropout or noise that eval mode leaves active.

    Args:
        model: as it is measured.
        inputs: one batch.
    """
    records: tuple[dict[str, list[Tensor]], ...] = ({}, {})
    with torch.inference_mode():
        if _same(forward(model, inputs), forward(model, inputs)):
            return []
        for record in records:
            _record_calls(model, inputs, record)
    first, second = records
    names = [key.removeprefix("out:") for key in first if key.startswith("out:")]
    fed_alike = [name for name in names if _equal(first[f"in:{name}"], second.get(f"in:{name}"))]
    noisy = [name for name in fed_alike if not _equal(first[f"out:{name}"], second.get(f"out:{name}"))]
    innermost = [name for name in noisy if not any(other != name and other.startswith(f"{name}." if name else "") for other in noisy)]
    return [name or "the network itself" for name in innermost]


def warn_of_noise(model: nn.Module, inputs: Any) -> None:
    """Warn where the network gives other outputs on equal inputs, naming the modules; every figure then starts from the same noise."""
    with repeatable():
        noisy = noisy_modules(model, first_example(inputs))
    if noisy:
        text = f"random in eval mode: {listed(noisy, SHOWN)} (dropout or noise that stays on). Figures repeat, but are those of one draw."
        warnings.warn(text, NetworkModeWarning, stacklevel=3)


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
    return other is not None and len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))


def _same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two outputs are equal, NaN for NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
