"""The times in a record. Free of mlflow."""

import time
from collections.abc import Callable

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first, of Linux, goes on while the machine sleeps


def stamps(after: int = 0) -> Callable[[], int]:
    """Return a clock of milliseconds since 1970 that starts at the time of day and is not moved when that one is set.

    MLflow shows the value of the latest stamp, and a run's duration between two of them; both would be wrong by what the clock jumped.

    Args:
        after: the last stamp of an earlier process; the clock starts no earlier.
    """
    begun = time.clock_gettime(_STEADY)
    first = max(int(1000 * time.time()), after)
    return lambda: first + int(1000 * (time.clock_gettime(_STEADY) - begun))
