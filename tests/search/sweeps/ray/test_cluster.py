"""Joining and leaving clusters; nodes, machines and drivers that are killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.forked import Started
from tests.search.sweeps.ray.cases import Command, Nodes, policies

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


LEAVE = """
import gc, tempfile, threading, time
from pathlib import Path
from search.sweeps.ray.cluster import connected
from search.sweeps.ray.placement import Placement

def collect():
    while ray.is_initialized():
        time.sleep(0.0005)
    gc.collect()

with connected("", Placement(1, 1, 0), Path(tempfile.mkdtemp(prefix="bf-leave-"))):
    import ray
    gc.disable()
    for number in range(2000):
        cycle = [ray.put(number)]
        cycle.append(cycle)
    del cycle
    thread = threading.Thread(target=collect)
    thread.start()
thread.join()
print("left")
"""


def test_leaving_ray_outlives_a_collection_of_garbage_in_another_thread(command: Command) -> None:
    """After a worker's death Tune leaves references in cycles; one that is freed while Ray shuts down ends the process."""
    done = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True, check=False, timeout=480)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


def test_a_process_that_imported_ray_before_joins_a_cluster_on_this_machine(command: Command, nodes: Nodes) -> None:
    code = "import ray, runpy; runpy.run_module('search', run_name='__main__')"
    path = command.write("early", nodes.run(), searcher="ray:OptunaSearch", trials=4)
    done = subprocess.run([sys.executable, "-c", code, "sweep", path], capture_output=True, text=True, check=False, timeout=480)
    assert done.returncode == 0, done.stderr + nodes.log()
    assert {row["status"] for row in command.rows("early")} == {"ok"}


@pytest.mark.slow
def test_a_node_and_the_driver_are_killed_and_the_resumed_sweep_equals_an_undisturbed_one(
    command: Command, nodes: Nodes, finished_trials: Callable[[str], dict[str, list[int]]]
) -> None:
    path = command.write("hurt", nodes.run("max_retries = 3").replace("workers = 2", "workers = 3"), "{ sleep = 0.15 }", trials=60)
    with sweeping(path) as driver:
        wait(driver, 20)
        nodes.kill_one()
        nodes.add_one()  # for the tests that come; this sweep may use it
        wait(driver, 40)
        driver.send_signal(signal.SIGKILL)
    code, _, err = command("resume", "hurt", "--uri", command.uri, "--log", "plain")
    assert code == 0, err + nodes.log()
    rows = command.rows("hurt")
    assert [row["trial"] for row in rows] == list(range(60))
    assert policies(rows) == policies(command.local("{ sleep = 0.001 }", trials=60))
    assert finished_trials(command.uri) == {"hurt": list(range(60)), "local": list(range(60))}


def test_a_worker_and_then_its_machine_are_killed_on_two_real_nodes(command: Command, tmp_path: Path) -> None:
    """Two `ray start`, the driver outside: kill -9 of a worker, then of everything that runs on the second node."""
    port = free_port()
    address = f"127.0.0.2:{port}"
    run = f'backend = "ray"\naddress = "{address}"\nworkers = 2\nmax_retries = 3'
    path = command.write("hurt", run, "{ sleep = 0.3 }", trials=24)
    with node("127.0.0.2", tmp_path / "a", "--head", f"--port={port}"):
        listens(address)
        with node("127.0.0.3", tmp_path / "b", f"--address={address}") as second, sweeping(path) as driver:
            wait(driver, 2)
            worker_of(second, driver).kill()
            wait(driver, 10)
            for process in [*second.children(recursive=True), second]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            assert wait(driver, 24)["retried"] >= 1
            summary = driver.stderr.read()
        assert driver.returncode == 0, summary
    rows = command.rows("hurt")
    assert [row["trial"] for row in rows] == list(range(24))
    assert {row["status"] for row in rows} == {"ok"}
    assert policies(rows) == policies(command.local("{ sleep = 0.001 }", trials=24))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(address: str) -> None:
    """Wait until the head of a cluster answers."""
    host, _, port = address.partition(":")
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        time.sleep(0.2)
    pytest.fail(f"nothing listens at {address}")


def worker_of(machine: psutil.Process, driver: Started) -> psutil.Process:
    """Wait for a process of `machine` that evaluates a policy right now: Ray names an actor after the method that it is in."""
    while driver.returncode is None:
        for process in machine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith("ray::") and ".train" in process.cmdline()[0]:
                    return process
        time.sleep(0.05)
    pytest.fail("the driver ended before the second node had a worker")


@contextlib.contextmanager
def node(ip: str, folder: Path, *arguments: str) -> Iterator[psutil.Process]:
    """Run `ray start` with one CPU, as on a machine of its own, until the context ends; `ip` is one of this machine's loop."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *arguments, "--block"]
    with tempfile.TemporaryDirectory(prefix="bf-", ignore_cleanup_errors=True) as temp, (folder.with_suffix(".log")).open("w") as log:
        flags = [
            f"--node-ip-address={ip}",
            "--num-cpus=1",
            "--object-store-memory=83886080",
            "--disable-usage-stats",
            f"--temp-dir={temp}",
        ]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
        dashboard = ["--include-dashboard=false"] if "--head" in arguments else []
        process = psutil.Popen([*command, *flags, *dashboard], stdout=log, stderr=log, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(timeout=120)


def sweeping(path: str) -> Started:
    """Start a sweep whose progress can be read."""
    return Started("sweep", path, "--log", "json")


def wait(driver: Started, done: int) -> dict[str, int]:
    """Read the driver's progress until so many trials are done; return what it shows then."""
    text = ""
    for line in driver.stderr:
        text += line
        if line.startswith("{") and (state := json.loads(line)).get("done", -1) >= done:
            return dict(state)
    pytest.fail(f"the driver ended early:\n{text}")


def test_clusters_that_cannot_be_joined_are_named(command: Command) -> None:
    for address, message in (
        ("ray://127.0.0.1:10001", "write '127.0.0.1:6379'"),
        ("127.0.0.1:1", "cannot connect to Ray at '127.0.0.1:1'"),
    ):
        code, _, err = command("sweep", command.write("client", f'backend = "ray"\naddress = "{address}"'))
        assert code == 2
        assert message in err
