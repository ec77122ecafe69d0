"""Wherever a task is accepted: a `Task`, a function that returns one, or a name."""

import sys
from collections.abc import Callable, Mapping

from quant_core.util.errors import InputError
from search.tasks import TASK_OBJECT, build, load
from search.tasks.task import Task

TaskSource = Task | Callable[..., Task] | str


def task_name(source: TaskSource) -> str:
    """Return the name that a record holds for a task: how another process finds it, or 'task:object' where none can."""
    if isinstance(source, str):
        return source
    module, name = getattr(source, "__module__", ""), getattr(source, "__qualname__", "")
    if module in ("", "__main__") or getattr(sys.modules.get(module), name, None) is not source:
        return TASK_OBJECT
    return f"{module}:{name}"


def open_task(source: TaskSource, options: Mapping[str, object]) -> Task:
    """Return the task that `source` is, gives when it is called with `options`, or names.

    Raises:
        InputError: it is none of these, an option does not fit, or the task is not complete.
        BitfrontError: the function raised.
    """
    if isinstance(source, str):
        return load(source, options)
    if isinstance(source, Task) and options:
        raise InputError(f"task_options {dict(options)} given with a Task, which takes none; give the function that makes it.")
    if not isinstance(source, Task) and not callable(source):
        raise InputError(f"a {type(source).__name__} given as the task; give a bitfront.Task, a function that returns one, or a name.")
    return build(task_name(source), source, options)
