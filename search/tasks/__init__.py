"""The table of tasks and the one way to get a `Task`: by a name of the table or a user's own `package.module:function`. Free of torch."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import resolve, suggest

if TYPE_CHECKING:
    from search.tasks.task import Task

TASKS: Mapping[str, str] = {
    "digits": "search.tasks.digits:digits",
    "fashion_mnist": "search.tasks.fashion_mnist:fashion_mnist",
    "pneumoniamnist": "search.tasks.pneumoniamnist:pneumoniamnist",
    "cifar10": "search.tasks.cifar10:cifar10",
    "mlperf_tiny": "search.tasks.agreement:mlperf_tiny",
    "stories260k": "search.tasks.stories260k:stories260k",
    "resnet20_cifar10": "search.tasks.agreement:resnet20_cifar10",
}

_SPLITS = ("train", "calib", "valid", "test")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load(name: str, options: Mapping[str, object]) -> "Task":
    """Build a task.

    Args:
        name: an entry of `TASKS`, or `package.module:function` where the function takes keyword options and returns a `Task`.
        options: passed to the function by name. Random numbers of torch, numpy and Python start alike at every call.

    Returns:
        The task, its model in eval mode, none of its splits empty.

    Raises:
        InputError: unknown name, an option that the function does not take or misses, or what came back is no complete task.
        BitfrontError: the function raised; the message names it and says what it raised.
    """
    function = resolve(TASKS, "task", name)
    if not callable(function):
        raise InputError(f"task {name!r} is a {type(function).__name__}, not a function that returns a search.tasks.task.Task.")
    _check_options(name, function, options)
    from quant_core.qat.rng import repeatable

    try:
        with repeatable():
            made: object = function(**options)
    except BitfrontError:
        raise
    except Exception as error:
        raise BitfrontError(f"task {name!r} failed with {type(error).__name__}: {error}") from error
    return _checked(name, made)


def _check_options(name: str, function: Callable[..., object], options: Mapping[str, object]) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise InputError(f"task {name!r} is no function of keyword options that returns a search.tasks.task.Task.") from None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    allowed = {key: parameter for key, parameter in parameters.items() if parameter.kind in _NAMED}
    listing = ", ".join(str(parameter) for parameter in allowed.values()) or "none"
    for key in options:
        if key not in allowed:
            raise InputError(f"task {name!r} has no option {key!r}; its options: {listing}.{suggest(key, allowed)}")
    missing = [key for key, parameter in allowed.items() if parameter.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise InputError(f"task {name!r} needs the option {', '.join(missing)}; its options: {listing}.")


def _checked(name: str, made: object) -> "Task":
    from torch import nn

    from search.tasks.task import Task

    if not isinstance(made, Task) or not isinstance(made.model, nn.Module):
        what = type(made.model if isinstance(made, Task) else made).__name__
        raise InputError(f"task {name!r} gave a {what}; it must return a search.tasks.task.Task whose model is a torch.nn.Module.")
    for split in _SPLITS:
        _check_split(f"task {name!r}: its {split}", getattr(made, split))
    made.model.eval()
    return made


def _check_split(what: str, split: object) -> None:
    from torch import Tensor

    from quant_core.qat.rng import repeatable

    if not isinstance(split, Iterable) or isinstance(split, Iterator):
        raise InputError(f"{what} is a {type(split).__name__}; give what can be read again and again: a list of batches or a DataLoader.")
    with repeatable():
        first: Any = next(iter(split), None)
    targets: Any = first[1] if isinstance(first, tuple | list) and len(first) == 2 else None
    batched = isinstance(targets, Tensor) and targets.dim() > 0
    if first is None or (batched and not len(targets)):
        raise InputError(f"{what} is empty; every one of {', '.join(_SPLITS)} needs at least one batch.")
    if not batched:
        kinds = f" of {', '.join(type(part).__name__ for part in first)}" if isinstance(first, tuple | list) else ""
        raise InputError(
            f"{what} gives batches of type {type(first).__name__}{kinds}; every batch must be (inputs, targets), "
            f"targets a tensor [N, ...] with one entry per example."
        )
