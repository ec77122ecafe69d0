"""The earlier address of `Task`, kept for tasks that users have written (`from search.task import Task`); new ones use `search.tasks.task`."""

from search.tasks.task import Task as Task
