"""Where tasks imported `Task` from in version 0.1.0: kept for tasks that users have written. New ones import it from `bitfront`."""

from search.tasks.task import Task

__all__ = ["Task"]
