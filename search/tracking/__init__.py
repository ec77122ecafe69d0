"""MLflow as the record of sweeps: `start`, `open`, `read`, `recover`. The home of mlflow, which is imported when a sweep is written.

A driver writes to a local journal (`spool`), a background thread carries it to MLflow (`writer`, `store`), and `read` puts a sweep
together from both. Nothing but the driver's process writes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from search.tracking.reading import read, read_header, sweeps
from search.tracking.recovery import recover

if TYPE_CHECKING:
    from search.tracking.opening import open_sweep as open
    from search.tracking.opening import start
    from search.tracking.tracker import Tracker

__all__ = ["Tracker", "open", "read", "read_header", "recover", "start", "sweeps"]


_LATE = {"Tracker": "tracker:Tracker", "open": "opening:open_sweep", "start": "opening:start"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LATE[name].partition(":")
    return getattr(importlib.import_module(f"search.tracking.{module}"), attribute)
