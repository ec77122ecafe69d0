"""Joining or starting a Ray cluster: quiet, without telemetry or dashboard, bound to this machine unless an address is given."""

import gc
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant_core.util.errors import InputError
from quant_core.util.process import Shared, environment, no_collector
from search.sweeps.phases import Report, silent

if TYPE_CHECKING:
    from search.sweeps.ray.placement import Placement

OBJECT_STORE_BYTES = 200 * 2**20
"""Of a cluster that is started, beside twice what every worker is given: Ray copies an object once while it puts it."""
SHARED_MEMORY = Path("/dev/shm")
PROBE_S = 10.0
STARTS = 4
_SLOW_START = "timed out during startup"
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
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}


_shared = Shared(lambda: environment(_ENVIRONMENT))


def settled() -> AbstractContextManager[None]:
    """Return a context in which variables that Ray reads when it is imported, and at a start, are set where the user has not."""
    return _shared.held()


@contextmanager
def connected(address: str, resources: "Placement", folder: Path, report: Report = silent, parcel_bytes: int = 0) -> Iterator[None]:
    """Be connected to a Ray cluster within the context. Where this process is connected already, that cluster is used and left as it is.

    Args:
        address: "" starts a cluster of this machine alone, which ends with the context; "auto" or "host:port" joins a running one.
        resources: of trials: the size of the cluster that is started; one that is joined should have a node with room for a trial.
        folder: for what a cluster that is started keeps.
        report: is told where no node has room for a trial.
        parcel_bytes: of the object that every worker is given: the object store of a cluster that is started holds it.

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
    address = located(address)
    if not address:
        _check_shared_memory(parcel_bytes, folder, report)
    local = not address or address.startswith(("127.0.0.1:", "localhost:"))
    with settled(), _on_loopback() if local else nullcontext():
        import ray

        _initialize(ray, address, _joining(address) if address else _starting(resources, folder, parcel_bytes), report)
        try:
            with _silent():
                _check_room(ray.nodes(), resources, report)
                yield
        finally:
            with _no_collector():
                ray.shutdown()


def _initialize(ray: Any, address: str, arguments: Mapping[str, Any], report: Report) -> None:
    """Call `ray.init`, again where its node was not up within Ray's own half a minute, as on a machine that is busy with other work.

    Raises:
        InputError: Ray cannot be joined or started.
    """
    for left in reversed(range(STARTS)):
        try:
            ray.init(**arguments, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            slow = _SLOW_START in str(error)  # Ray raises a plain Exception
            if slow and left:
                report(f"Ray did not start within its half a minute: this machine is busy; trying again, {left} times at most", 0, 0)
                continue
            if slow or isinstance(error, (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError)):
                raise InputError(f"cannot connect to Ray at {address or 'this machine'!r}: {error}") from error
            raise
        return


def _joining(address: str) -> dict[str, Any]:
    return {"address": address}


def _starting(resources: "Placement", folder: Path, parcel_bytes: int = 0) -> dict[str, Any]:
    """Return the arguments of `ray.init`; "local" keeps it from joining a cluster that RAY_ADDRESS or a file of another user names."""
    return {
        "address": "local",
        "num_cpus": max(1, round(resources.workers * resources.cpus)),
        "num_gpus": round(resources.workers * resources.gpus) or None,
        "include_dashboard": False,
        "object_store_memory": _store_bytes(parcel_bytes),
        "_temp_dir": str(folder),
        "_node_ip_address": "127.0.0.1",
    }


def _store_bytes(parcel_bytes: int) -> int:
    return OBJECT_STORE_BYTES + 2 * parcel_bytes


def _check_shared_memory(parcel_bytes: int, folder: Path, report: Report) -> None:
    """Say so where shared memory has no room for the object store: Ray then keeps it in `folder`, which is slower."""
    wanted = _store_bytes(parcel_bytes)
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < wanted:
        has = f"{SHARED_MEMORY} has {free / 1e6:,.0f} MB free"
        report(f"{has} of the {wanted / 1e6:,.0f} MB of Ray's object store, which is kept in {folder}: slower; Docker: --shm-size", 0, 0)


def _check_room(nodes: Sequence[Mapping[str, Any]], resources: "Placement", report: Report) -> None:
    """Say so where no node of the cluster has room for a trial, which then waits for one to join."""
    rooms = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes if node["Alive"]]
    if not any(cpus >= resources.cpus and gpus >= resources.gpus for cpus, gpus in rooms):
        has = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sorted(set(rooms), reverse=True)[:3]) or "no node"
        wanted = f"a trial of {resources.cpus:g} CPUs and {resources.gpus:g} GPUs"
        report(f"waiting for a node with room for {wanted}; the cluster has {has}; Ctrl-C ends the wait", 0, 0)


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
    with no_collector():
        yield


def addresses() -> tuple[str, str]:
    """Return the socket of the raylet that this process is connected to, and the address of its GCS."""
    from ray._private.worker import global_worker

    node = global_worker.node
    return str(node.raylet_socket_name), str(node.gcs_address)


def located(address: str) -> str:
    """Return "host:port" of the cluster to join, "" for none; "auto" is RAY_ADDRESS, else the last `ray start` of this user here.

    Raises:
        InputError: there is none, it is another user's, or no cluster answers there within seconds (Ray itself tries for minutes).
    """
    source = ""
    if address == "auto" and (address := os.environ.get("RAY_ADDRESS", "auto")) != "auto":
        source = " of RAY_ADDRESS"
    if address == "auto":
        from ray._private.utils import get_ray_address_file

        noted = Path(get_ray_address_file(None))
        if not noted.is_file():
            raise InputError(f"run.address = 'auto' given, and no cluster runs here ({noted} is absent). {_START}")
        address, source = noted.read_text().strip(), f" of {noted}"
        if noted.stat().st_uid != os.getuid():
            raise InputError(
                f"run.address = 'auto' given, and the cluster here, {address!r}, was started by another user ({noted} is theirs). "
                f"Give run.address = {address!r} to join it all the same, or '' to start one."
            )
    if address:
        _probe(address, source)
    return address


_START = "Start a head with `ray start --head`, and give its 'host:port' as run.address; '' starts a cluster of this machine."
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = 4
"""Preface and empty SETTINGS frame of HTTP/2, on which a server answers with SETTINGS (RFC 9113, sections 3.4 and 6.5)."""


def _probe(address: str, source: str) -> None:
    """Fail within seconds where no gRPC server, which the head of a cluster is, answers.

    Raises:
        InputError: nothing listens at `address`, or something else, or it is not "host:port".
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_S) as probe:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                probe.sendall(_GREETING)
                answer = probe.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise OSError("what listens there is no head of a Ray cluster")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot connect to Ray at {address!r}{source}: {error}. {_START}") from error
