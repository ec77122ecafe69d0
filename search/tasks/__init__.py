"""The table of tasks and the one way to get a `Task`: by a name of the table or a user's own `package.module:function`. Free of torch."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.parts import copy_refused
from quant_core.util.registry import resolve, suggest
from quant_core.util.text import listed

if TYPE_CHECKING:
    from search.tasks.stream import Split
    from search.tasks.task import Task

TASKS: Mapping[str, str] = {
    "digits": "search.tasks.digits:digits",
    "fashion_mnist": "search.tasks.fashion_mnist:fashion_mnist",
    "pneumoniamnist": "search.tasks.pneumoniamnist:pneumoniamnist",
    "cifar10": "search.tasks.cifar10:cifar10",
    "mlperf_tiny": "search.tasks.agreement:mlperf_tiny",
    "stories260k": "search.tasks.stories260k:stories260k",
    "llama10m": "search.tasks.llama10m.task:llama10m",
    "image_folder": "search.tasks.image_folder:image_folder",
    "efficientnet_lite0": "search.tasks.efficientnet_lite0:efficientnet_lite0",
    "hf": "search.tasks.hf.task:hf",
    "minilm_sts": "search.tasks.minilm_sts:minilm_sts",
    "resnet20_cifar10": "search.tasks.agreement:resnet20_cifar10",
}

TASK_OBJECT = "task:object"
"""The name, in the record of a sweep, of a task that Python gave as an object, or as a function that no import reaches."""
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
    if name == TASK_OBJECT:
        raise InputError("this sweep's task was given as an object in Python; give it again: bitfront.load(NAME, task=task).")
    return build(name, resolve(TASKS, "task", name), options)


def build(name: str, source: object, options: Mapping[str, object]) -> "Task":
    """Return the task that `source` is, or gives when it is called; otherwise as `load`.

    A `Task` whose model is in training mode is left so; the task that is returned holds a copy of the model, in eval mode.
    """
    from torch import nn

    from quant_core.network.copies import sharing_copy
    from search.tasks.task import Task

    if not isinstance(source, Task):
        return _checked(name, _called(name, source, options))
    if isinstance(source.model, nn.Module) and any(module.training for module in source.model.modules()):
        try:
            source = replace(source, model=sharing_copy(source.model).eval())
        except TypeError as error:
            raise copy_refused(source.model, "model", error) from error
    return _checked(name, source)


def _called(name: str, function: object, options: Mapping[str, object]) -> object:
    """Return the value of a task's function.

    Raises:
        InputError: it is no function, or does not take the options.
        BitfrontError: it raised.
    """
    if not callable(function):
        raise InputError(f"task {name!r} is a {type(function).__name__}, not a function that returns a bitfront.Task.")
    _check_options(name, function, options)
    from quant_core.util.rng import repeatable

    try:
        with repeatable():
            made: object = function(**options)
    except BitfrontError:
        raise
    except Exception as error:
        raise BitfrontError(f"task {name!r} failed with {type(error).__name__}: {error}") from error
    return made


def _check_options(name: str, function: Callable[..., object], options: Mapping[str, object]) -> None:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise InputError(f"task {name!r} is no function of keyword options that returns a bitfront.Task.") from None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    allowed = {key: parameter for key, parameter in parameters.items() if parameter.kind in _NAMED}
    listing = listed(allowed.values(), 40) or "none"
    for key in options:
        if key not in allowed:
            raise InputError(f"task {name!r} has no option {key!r}; its options: {listing}.{suggest(key, allowed)}")
    missing = [key for key, parameter in allowed.items() if parameter.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise InputError(f"task {name!r} needs the option {listed(missing)}; its options: {listing}.")


def _checked(name: str, made: object) -> "Task":
    from torch import nn

    from quant_core.network.reference import reference_network
    from search.tasks.checks import divided_task, probed_task
    from search.tasks.stream import SPLITS
    from search.tasks.task import Task

    if not isinstance(made, Task) or not isinstance(made.model, nn.Module):
        what = type(made.model if isinstance(made, Task) else made).__name__
        raise InputError(f"task {name!r} gave a {what}; it must return a bitfront.Task whose model is a torch.nn.Module.")
    try:
        task = divided_task(made)
        splits: dict[str, Any] = {split: _checked_split(task, split) for split in SPLITS}
        return probed_task(replace(task, model=reference_network(made.model), **splits))
    except InputError as error:
        raise InputError(f"task {name!r}: its {error}") from None
    except BitfrontError as error:
        raise BitfrontError(f"task {name!r}: {error}") from None


def _checked_split(task: "Task", split: "Split") -> object:
    """Return one split of a task: a list as it is, another as a `Stream` that has read one batch.

    Raises:
        InputError: it is empty, can be read only once, or its batches are not (inputs, targets).
    """
    from search.tasks.batches import Divided, is_plain, size_of
    from search.tasks.stream import SPLITS, Stream, opened

    stream = opened(task, split)
    first = stream.first()
    if first is None or not size_of(*first):
        raise InputError(f"{split} is empty; every one of {listed(SPLITS)} needs at least one batch.")
    if not is_plain(first):  # a mapping that torch does not look into
        return Stream(split, Divided(stream.source, None, split))
    return stream.source if isinstance(stream.source, list | tuple) else stream
