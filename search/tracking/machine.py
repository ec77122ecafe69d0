"""The load of the driver's machine while a sweep runs, as MLflow's own system metrics. Imports mlflow: load it late."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from search.tracking.tracker import Tracker

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor  # isort: skip  # after `client`, which sets what it reads
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor  # isort: skip
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor  # isort: skip
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor  # isort: skip


class _Monitor(Protocol):
    """What MLflow's monitors can do; they are not annotated."""

    def collect_metrics(self) -> None: ...

    def aggregate_metrics(self) -> Mapping[str, float]: ...

    def clear_metrics(self) -> None: ...


@contextmanager
def sampled(tracker: Tracker, every_s: float) -> Iterator[None]:
    """Measure processor, memory, disk, network and NVIDIA GPUs every so many seconds (0: never) within the context.

    MLflow's measuring and names (`system/...`, a tab of its own in the UI), but written through the sweep's journal like everything
    else: a store that is away loses none of it.
    """
    if not every_s:
        yield
        return
    halt = threading.Event()
    thread = threading.Thread(target=_sample, args=(tracker, every_s, halt), name="bitfront-machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        halt.set()
        thread.join()


def _sample(tracker: Tracker, every_s: float, halt: threading.Event) -> None:
    monitors = _monitors()
    ended = False
    while not ended:
        ended = halt.wait(every_s)
        figures: dict[str, float] = {}
        for monitor in monitors:
            monitor.collect_metrics()
            figures |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        tracker.measure(figures)


def _monitors() -> list[_Monitor]:
    """Return one monitor per kind; without NVIDIA's library there is none of GPUs."""
    kinds: tuple[Callable[[], _Monitor], ...] = (CPUMonitor, DiskMonitor, NetworkMonitor)
    monitors = [kind() for kind in kinds]
    with suppress(Exception):  # the library is missing, or there is no GPU: it raises several kinds
        gpu: Callable[[], _Monitor] = GPUMonitor
        monitors.append(gpu())
    return monitors
