"""Joining or starting a Ray cluster: quiet, without telemetry or dashboard, bound to this machine unless an address is given."""

import gc
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path

from quant_core.util.errors import InputError
from quant_core.util.process import Shared, environment

PROBE_S = 10.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AUTH_MODE": "disabled",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}


_shared = Shared(lambda: environment(_ENVIRONMENT))


def settled() -> AbstractContextManager[None]:
    """Return a context in which variables that Ray reads when it is imported, and at a start, are set where the user has not."""
    return _shared.held()


@contextmanager
def connected(address: str, workers: int, cpus_per_trial: float, gpus_per_trial: float, store_bytes: int) -> Iterator[None]:
    """Be connected to a Ray cluster within the context. Where this process is connected already, that cluster is used and left as it is.

    Args:
        address: "" starts a cluster of this machine alone, which ends with the context; "auto" or "host:port" joins a running one.
        workers, cpus_per_trial, gpus_per_trial, store_bytes: size of the cluster that is started, and of its object store.

    Raises:
        InputError: no cluster answers at `address`.
    """
    if address.startswith("ray://"):
        host = address.removeprefix("ray://").partition(":")[0]
        raise InputError(f"run.address = {address!r} given; Ray Tune needs a driver within the cluster's network: write '{host}:6379'.")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        with settled(), _silent():
            yield
        return
    if ":" in address:
        _probe(address)
    local = not address or address.startswith(("127.0.0.1:", "localhost:"))
    folders = tempfile.TemporaryDirectory(prefix="bf-ray-", ignore_cleanup_errors=True)
    with settled(), _on_loopback() if local else nullcontext(), folders as folder:
        import ray

        try:
            if address:
                ray.init(address, log_to_driver=False, logging_level="ERROR")
            else:
                ray.init(
                    num_cpus=max(1, round(workers * cpus_per_trial)),
                    num_gpus=round(workers * gpus_per_trial) or None,
                    include_dashboard=False,
                    object_store_memory=store_bytes,
                    log_to_driver=False,
                    logging_level="ERROR",
                    _temp_dir=folder,
                    _node_ip_address="127.0.0.1",
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"cannot connect to Ray at {address or 'this machine'!r}: {error}") from error
        try:
            with _silent():
                yield
        finally:
            with _no_collector():
                ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Keep Ray from turning 127.0.0.1 into the outer address, where nothing listens: joining would hang.

    Processes that Ray starts read the environment variable; in this one it was read when ray was imported, by one of Ray's searchers, say.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    with environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
        ray_constants.ENABLE_RAY_CLUSTER = os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] not in ("0", "")
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what Ray writes to standard output in this process, such as the deaths of workers: the sweep tells of its trials itself."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep Python's garbage collector from running in any thread, after it ran once.

    An object reference that a thread other than the main one releases while `ray.shutdown()` takes the core worker apart ends this process
    (exit code 1, "the core worker has already been shutdown"; a SIGSEGV seen at the same place is taken for the same race). After the death
    of a worker Tune leaves such references in cycles, and the collector may run in any thread: that of the record, or Ray's own.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _probe(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself goes on trying for minutes.

    Raises:
        InputError: nothing listens at `address`, or it is not "host:port".
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_S).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot connect to Ray at {address!r}: {error}. Start a head with `ray start --head`, and give its 'host:port' as run.address."
        ) from error
