"""The part of a network's outputs that is judged and compared: named by its owner, else `logits`, else the first tensor."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.text import listed

Output = str | Callable[[Any], Tensor]
_ATTRIBUTE = "bitfront_output"


def with_output(model: nn.Module, output: Output) -> nn.Module:
    """Return the network with a named output, which its copies keep. Weights and modules are shared; `model` itself is not changed."""
    if not output:
        return model
    named = copy.copy(model)
    object.__setattr__(named, _ATTRIBUTE, output)
    return named


def judged_output(model: nn.Module, outputs: Any) -> Tensor:
    """Return the tensor that `model` is judged by.

    Args:
        model: its named output counts, see `with_output`.
        outputs: of one call.

    Raises:
        InputError: there is no part of that name.
        BitfrontError: no tensor stands there.
    """
    output: Output = getattr(model, _ATTRIBUTE, "")
    part: object
    if callable(output):
        part = output(outputs)
        place = "the task's output function"
    elif output:
        part = _named(outputs, output)
        place = f"output {output!r}"
    else:
        part = _default(outputs)
        place = "the network"
    if isinstance(part, Tensor):
        return part
    raise BitfrontError(
        f"{place} gave a {type(part).__name__}{_holding(part)}; a tensor is needed: Task(..., output='NAME') names the part that is judged."
    )


def further_outputs(model: nn.Module, outputs: Any, judged: Tensor) -> list[Tensor]:
    """Return the other floating-point tensors of a call's outputs, in order, where the owner of `model` named the part that is judged.

    A detector that is judged by its scores still gives boxes. Without a name nothing is returned: further outputs are caches and states.
    """
    if not getattr(model, _ATTRIBUTE, ""):
        return []
    return [tensor for tensor in _tensors(outputs) if tensor is not judged and tensor.is_floating_point() and tensor.dim()]


def _named(outputs: Any, path: str) -> Any:
    """Return the part at a path of keys, attributes and positions, as in "boxes.0"."""
    part = outputs
    for step in path.split("."):
        part = _step(part, step, path)
    return part


def _step(part: Any, step: str, path: str) -> Any:
    if isinstance(part, Mapping) and step in part:
        return part[step]
    if isinstance(part, Sequence) and step.isdecimal() and int(step) < len(part):
        return part[int(step)]
    if step.isidentifier() and not isinstance(part, Tensor) and hasattr(part, step):
        return getattr(part, step)
    raise InputError(
        f"the network's outputs have no part {path!r}: a {type(part).__name__}{_holding(part)}; name one of its parts as output."
    )


def _holding(part: Any) -> str:
    """Return the parts of an output for a message."""
    if isinstance(part, Mapping):
        return f" with the parts {listed(part)}"
    if isinstance(part, tuple | list):
        return f" with the parts {listed(getattr(part, '_fields', range(len(part))))}"
    if dataclasses.is_dataclass(part):
        return f" with the parts {listed(field.name for field in dataclasses.fields(part))}"
    return f" of shape {tuple(part.shape)}" if isinstance(part, Tensor) else ""


def _default(outputs: Any) -> Any:
    """Return the outputs' `logits`, or else their first tensor; the outputs themselves where there is none."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return logits if isinstance(logits, Tensor) else next(_tensors(outputs), outputs)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
