"""Batches of any structure as `(inputs, targets)`: labels inside or beside, sample weights, labels that are not judged."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from quant_core.network.forward import Examples, examples_of
from quant_core.util.errors import InputError
from quant_core.util.text import listed

IGNORED = -100
"""The label that is not judged, as in `torch.nn.functional.cross_entropy`."""
_LABELS = ("labels", "label", "targets", "target", "y")
_WEIGHTS = ("sample_weight", "sample_weights")
Rule = str | Callable[[Any], Any] | None


class Pair(NamedTuple):
    """A batch whose targets may have any structure."""

    inputs: Any
    targets: Any


class Weighted(NamedTuple):
    """Targets and the weight of every example, [N], or of every target."""

    targets: Any
    weights: Tensor


class Divided:
    """A split whose batches are `(inputs, targets)`, made from the owner's batches whenever it is read.

    Args:
        source: the owner's re-iterable batches.
        rule: key of the labels, a function of a batch, or None: see `divided`.
        name: "train", "calib", "valid" or "test".
        whole: batches stay undivided, as inputs without targets.
    """

    def __init__(self, source: Iterable[Any], rule: Rule, name: str, *, whole: bool = False) -> None:
        self.source, self._rule, self._name, self._whole = source, rule, name, whole

    def __iter__(self) -> Iterator[Pair]:
        """Yield `(inputs, targets)`; targets of a batch with sample weights are `Weighted`.

        Raises:
            InputError: a batch cannot be divided, or there are fewer batches than the split says.
        """
        count = 0
        for batch in self.source:
            count += 1
            place = f"batch {count} of {self._name}"
            yield Pair(_plain(batch), None) if self._whole else Pair(*divided(batch, self._rule, place))
        promised = _promised(self.source, count)
        if count < promised:
            raise InputError(f"{self._name} says that it has {promised} batches and ended after {count}; give all, or a loader that knows.")


def _promised(source: Iterable[Any], count: int) -> int:
    """Return the number of batches that a source says it has; `count` where it does not know, as a DataLoader of an IterableDataset."""
    try:
        return len(source) if isinstance(source, Sized) else count
    except TypeError:
        return count


def divided(batch: Any, rule: Rule, place: str) -> tuple[Any, Any]:
    """Return a batch as inputs and targets.

    Args:
        batch: of a loader.
        rule: a function that returns `(inputs, targets)` or `(inputs, targets, weights)`; or the key (attribute, position) of the labels;
            None: a pair is `(inputs, targets)`, and of a mapping or a dataclass the part `labels` (label, targets, target, y) is taken out.
        place: for messages.

    Raises:
        InputError: the batch has no such labels, or no tensor to give to the network.
    """
    parts = _parts(batch, rule, place)
    inputs, targets = _plain(parts[0]), _plain(parts[1])
    if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(inputs)):
        raise InputError(f"{place} holds no tensor for the network{_holding(batch)}; collate to tensors, or give Task a batch function.")
    inputs = with_lists(inputs, size_of(inputs, targets))
    if len(parts) == 2 or parts[2] is None:
        return inputs, targets
    weights = parts[2]
    if not isinstance(weights, Tensor) or not weights.dim() or bool((weights < 0).any()):
        raise InputError(f"the sample weights of {place} are a {type(weights).__name__}{_shape(weights)}; give a tensor [N], none below 0.")
    return inputs, Weighted(targets, weights)


def _parts(batch: Any, rule: Rule, place: str) -> tuple[Any, ...]:
    if callable(rule):
        parts = rule(batch)
        if not isinstance(parts, tuple) or len(parts) not in (2, 3):
            raise InputError(
                f"the task's batch function gave a {type(parts).__name__}{_holding(parts)} for {place}; "
                f"(inputs, targets) or (inputs, targets, weights) is needed."
            )
        return parts
    fields = _fields(batch)
    if fields is not None:
        names = (rule,) if rule else _LABELS
        label = next((name for name in names if name in fields), None)
        weight = next((name for name in _WEIGHTS if name in fields), None)
        if label is None and rule:
            raise InputError(f"{place} has no part {rule!r}{_holding(batch)}; name the part of the labels: Task(..., batch='NAME').")
        inputs = {name: value for name, value in fields.items() if name not in (label, weight)}
        return inputs, fields.get(label or ""), fields.get(weight or "")
    if isinstance(batch, tuple | list) and rule and rule.isdecimal() and int(rule) < len(batch):
        return tuple(part for i, part in enumerate(batch) if i != int(rule)), batch[int(rule)]
    if isinstance(batch, tuple | list) and len(batch) == 2 and not rule:
        return tuple(batch)
    if isinstance(batch, Tensor) and not rule:
        return batch, None
    raise InputError(
        f"{place} is a {type(batch).__name__}{_holding(batch)}; give (inputs, targets), or say how to divide it: "
        f"Task(..., batch=lambda batch: (inputs, targets))."
    )


def _fields(batch: Any) -> dict[str, Any] | None:
    """Return the parts of a mapping or a dataclass by name, those that are None left out."""
    if isinstance(batch, Mapping):
        pairs: Iterable[tuple[Any, Any]] = batch.items()
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        pairs = ((field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch))
    else:
        return None
    return {str(name): value for name, value in pairs if value is not None}


def _plain(value: Any) -> Any:
    """Return mappings and dataclasses as dicts, also inside tuples and lists: torch knows the tensors in those."""
    fields = _fields(value)
    if fields is not None:
        return {name: _plain(part) for name, part in fields.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(_plain(part) for part in value)
    return value


def with_lists(value: Any, size: int) -> Any:
    """Return inputs whose lists of one entry for every one of `size` examples are `Examples`, which are cut entry by entry."""
    if _is_listed(value, size):
        return Examples(value)
    if isinstance(value, dict):
        return {name: with_lists(part, size) for name, part in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(with_lists(part, size) for part in value)
    return value


def _is_listed(value: Any, size: int) -> bool:
    """Tell whether a value is a list with an entry per example, and not of tensors of all examples, as DataLoader collates tuples."""
    return isinstance(value, list) and len(value) == size and not (_columns(value) and len(value[0]) == size)


def is_plain(value: Any) -> bool:
    """Tell whether a value holds no mapping or dataclass that torch does not look into."""
    if type(value) in (dict, tuple, list) or hasattr(value, "_fields"):
        return all(is_plain(part) for part in (value.values() if isinstance(value, dict) else value))
    return _fields(value) is None


def _holding(batch: Any) -> str:
    fields = _fields(batch)
    if fields is not None:
        return f" with the parts {listed(fields) or 'none'}"
    return f" of {listed(type(part).__name__ for part in batch)}" if isinstance(batch, tuple | list) else _shape(batch)


def _shape(value: Any) -> str:
    return f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""


def next_token(batch: Any) -> tuple[Any, Tensor]:
    """Divide a causal language model's batch for `Task(batch=next_token)`: the target of every position is the token after it.

    Args:
        batch: a mapping with `input_ids` [N, T] and, where some positions are not to be judged, `labels` [N, T] with -100 there; or a
            tensor [N, T] of tokens. Padding (`attention_mask` 0) is not judged.

    Returns:
        (inputs without labels, targets [N, T]), the last position -100.
    """
    fields = _fields(batch)
    inputs = {name: value for name, value in fields.items() if name != "labels"} if fields is not None else batch
    tokens = fields.get("input_ids") if fields is not None else batch
    if not isinstance(tokens, Tensor) or tokens.dim() != 2:
        raise InputError(f"next_token: a {type(batch).__name__}{_holding(batch)} given; a mapping with input_ids [N, T] is needed.")
    labels = (fields or {}).get("labels", tokens)
    mask = (fields or {}).get("attention_mask")
    if mask is not None:
        labels = labels.masked_fill(mask == 0, IGNORED)
    targets = torch.full_like(labels, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    return inputs, targets


def parted(targets: Any) -> tuple[Any, Tensor | None]:
    """Return targets and sample weights of a batch; None without weights."""
    return (targets.targets, targets.weights) if isinstance(targets, Weighted) else (targets, None)


def size_of(inputs: Any, targets: Any) -> int:
    """Return the number of examples in a batch: the length of the targets, or of the first tensor of the inputs."""
    targets, _ = parted(targets)
    if isinstance(targets, Tensor) or (isinstance(targets, list) and not _columns(targets)):
        return len(targets)
    if targets is None:
        return examples_of(inputs)
    leaves = [leaf for leaf in (*tree_leaves(targets), *tree_leaves(inputs)) if isinstance(leaf, Tensor) and leaf.dim()]
    return len(leaves[0]) if leaves else 1


def cut(value: Any, count: int, size: int) -> Any:
    """Return the first `count` examples of inputs or targets, keeping their structure; a tensor without a row per example stays whole.

    A list is cut where it has an entry for every one of the batch's `size` examples, as detectors take images; its parts are cut where
    they are tensors of all examples, as DataLoader collates tuples.
    """
    if isinstance(value, Tensor):
        return value[:count] if value.dim() and len(value) == size else value
    if isinstance(value, Mapping):
        return {name: cut(part, count, size) for name, part in value.items()}
    if _is_listed(value, size):
        return type(value)(value[:count])
    if isinstance(value, tuple | list):
        parts = [cut(part, count, size) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def divisible(value: Any, size: int) -> bool:
    """Tell whether `cut` takes every tensor of inputs or targets apart: one without a row per example may be a table of all of them."""
    if isinstance(value, Tensor):
        return not value.dim() or len(value) == size
    if _is_listed(value, size):
        return True
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return all(divisible(part, size) for part in parts)


def _columns(parts: list[Any]) -> bool:
    """Tell whether a list holds tensors of one number of examples: arguments, as DataLoader collates tuples, and no examples."""
    lengths = {len(part) if isinstance(part, Tensor) and part.dim() else -1 for part in parts}
    return len(lengths) == 1 and -1 not in lengths
