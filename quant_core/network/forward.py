"""Calling a user's model: `model(x)`, `model(*x)` for a tuple, `model(**x)` for a dict. Here alone batches move to its device."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node, tree_leaves, tree_map

from quant_core.network.outputs import judged_output
from quant_core.util.devices import device_of
from quant_core.util.pages import give_back

_CHANGES = "bitfront_changes_inputs"


class Examples(list[Any]):
    """A list with an entry per example, as detectors take images of several sizes; a part of a batch, and one argument where it is all."""


register_pytree_node(Examples, lambda examples: (list(examples), None), lambda entries, _: Examples(entries))


def with_fresh_inputs(model: nn.Module) -> nn.Module:
    """Return the network, which writes into its inputs, so that every call is given a copy of them; `model` itself is not changed."""
    marked = copy.copy(model)
    object.__setattr__(marked, _CHANGES, True)
    return marked


def call(model: nn.Module, inputs: Any) -> Any:
    """Run `model` on one batch of inputs, moved to its device, and return all that it returns."""
    give_back()
    inputs = placed_inputs(model, inputs)
    if getattr(model, _CHANGES, False):
        inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) and not isinstance(inputs, Examples) else model(inputs)


def forward(model: nn.Module, inputs: Any) -> Tensor:
    """Run `model` on one batch of inputs and return the output that is judged: the named one, else `logits`, else the first tensor.

    Raises:
        BitfrontError: there is none.
    """
    return judged_output(model, call(model, inputs))


def first_input(args: Any, kwargs: Any) -> Any:
    """Return the first argument of a layer's call, given by position or by keyword."""
    return args[0] if args else next(iter(kwargs.values()))


@contextmanager
def watched_inputs(modules: Mapping[str, nn.Module], observe: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `observe(name, first input)` before every call of each of the named `modules` within the block."""

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, args, kwargs: observe(name, first_input(args, kwargs))

    handles = [module.register_forward_pre_hook(hook_of(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_first_input(args: Any, kwargs: Any, change: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return the arguments of a layer's call with its first one changed, given by position or by keyword."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    key, *_ = kwargs
    return args, {**kwargs, key: change(kwargs[key])}


def placed_inputs(model: nn.Module, inputs: Any) -> Any:
    """Return a batch on the device of `model` (of its first parameter); a network without parameters takes it where it is."""
    device = device_of(model)
    return inputs if device is None or device.type == "meta" else to_device(inputs, device)


def to_device(inputs: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on `device`, in the same structure; the batch itself where they all are there."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, dict):
        moved = {key: to_device(value, device) for key, value in inputs.items()}
        return inputs if all(moved[key] is value for key, value in inputs.items()) else moved
    if isinstance(inputs, tuple | list):
        parts = [to_device(part, device) for part in inputs]
        if all(part is before for part, before in zip(parts, inputs, strict=True)):
            return inputs
        return getattr(type(inputs), "_make", type(inputs))(parts)  # a named tuple takes its fields one by one
    return inputs


def examples_of(inputs: Any) -> int:
    """Return the number of examples of a batch: of its first list of them, or the size of the first axis of its first tensor."""
    leaves = rows_of(inputs)
    sizes = (len(leaf) for kind in (Examples, Tensor) for leaf in leaves if isinstance(leaf, kind))
    return next(itertools.islice(sizes, 1), 1)


def rows_of(inputs: Any) -> list[Examples | Tensor]:
    """Return the parts of a batch that have rows: tensors with an axis, and lists of examples."""
    leaves = tree_leaves(inputs, is_leaf=_is_list)
    return [leaf for leaf in leaves if _is_list(leaf) or (isinstance(leaf, Tensor) and leaf.dim())]


def rows_mapped(change: Callable[[Any], Any], inputs: Any) -> Any:
    """Return a batch in which `change` was applied to all that `rows_of` gives."""
    return tree_map(
        lambda leaf: change(leaf) if _is_list(leaf) or (isinstance(leaf, Tensor) and leaf.dim()) else leaf, inputs, is_leaf=_is_list
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Examples)


def first_example(inputs: Any) -> Any:
    """Cut a batch of inputs down to its first example, keeping its structure."""
    return first_examples(inputs, 1)


def first_examples(inputs: Any, count: int) -> Any:
    """Cut a batch of inputs down to its first examples, keeping its structure; a tensor without a row per example is kept whole."""
    size = examples_of(inputs)
    return rows_mapped(lambda part: type(part)(part[:count]) if _is_list(part) else part[:count] if len(part) == size else part, inputs)
