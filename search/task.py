"""The earlier address of `Task`, for tasks that users have written (`from search.task import Task`); new ones use `search.tasks.task`."""

from search.tasks.task import Task

__all__ = ["Task"]
