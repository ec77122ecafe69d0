"""Sweeps on Ray Tune: the same policies as locally, workers that die, hang or fail, nodes and drivers that are killed."""

import contextlib
import io
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

from search.cli.app import main

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
HERE = Path(__file__).parent
EXPERIMENT = """
name = "{name}"
[task]
name = "own_task:make"
options = {options}
[space]
weight = {{ bits = [2, 4, 8], granularity = "channel", clipping = "mse" }}
activation = ["int8:tensor", "int4:tensor:mse"]
[device]
name = "vu9p-bitserial"
objectives = ["error", "weight_bytes", "latency_s"]
[search]
searcher = "{searcher}"
trials = {trials}
seed = 5
[track]
uri = "sqlite:///{folder}/mlflow.db"
[run]
{run}
"""
LOCAL = 'backend = "local"'
Rows = list[dict[str, object]]


class Command:
    """The `bitfront` command in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"

    def write(self, name: str, run: str, options: str = "{}", searcher: str = "random", trials: int = 14) -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(EXPERIMENT.format(name=name, run=run, options=options, searcher=searcher, trials=trials, folder=self.folder))
        return str(path)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run in a process of its own, as a user does."""
        done = subprocess.run([sys.executable, "-m", "search", *arguments], capture_output=True, text=True, check=False, timeout=480)
        return done.returncode, done.stdout, done.stderr

    def here(self, *arguments: str) -> tuple[int, str]:
        """Run in this process, where a test can look on; return the exit code and standard output."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["bitfront", *arguments])
            with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as exit_:
                main()
        return int(exit_.value.code or 0), out.getvalue()

    def rows(self, name: str) -> Rows:
        """Return every trial as `bitfront front --all --json` shows it."""
        found: Rows = json.loads(self.here("front", name, "--all", "--json", "--uri", self.uri)[1])
        return found

    def sweep(self, name: str, run: str, options: str = "{}", searcher: str = "random", trials: int = 14) -> Rows:
        code, _, err = self("sweep", self.write(name, run, options, searcher, trials), "--log", "plain")
        assert code == 0, err
        return self.rows(name)

    def local(self, options: str = "{}", searcher: str = "random", trials: int = 14) -> Rows:
        """Return what one process finds without Ray."""
        assert self.here("sweep", self.write("local", LOCAL, options, searcher, trials), "--log", "plain")[0] == 0
        return self.rows("local")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{HERE.parents[1]}")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Command(tmp_path)


class Nodes:
    """Three nodes of one CPU each, in a process of their own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address = self._answer()
        assert self.address.startswith("127.0.0.1:")

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def kill_one(self) -> None:
        assert self._process.stdin
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._answer() == "killed"

    def run(self, more: str = "") -> str:
        return f'backend = "ray"\naddress = "{self.address}"\nworkers = 2\n{more}'


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(HERE / "own_cluster.py"), "3"], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    with process:
        yield Nodes(process)
        process.communicate(timeout=60)


LEAVE = """
import gc, threading, time
from search.sweeps.ray.cluster import connected

def collect():
    while ray.is_initialized():
        time.sleep(0.0005)
    gc.collect()

with connected("", 1, 1, 0):
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


def policies(rows: Rows) -> list[tuple[object, ...]]:
    return sorted((str(row["id"]), row["accuracy_valid"], row["weight_bytes"], row["status"]) for row in rows)


def listening() -> set[tuple[str, str, int]]:
    """Return where the Ray processes of this machine listen, other than at 127.0.0.1."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.ip not in ("127.0.0.1", "::ffff:127.0.0.1"):
                    found.add((process.name(), each.laddr.ip, each.laddr.port))
    return found


def test_a_cluster_of_this_machine_gives_the_figures_of_one_process_and_leaves_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.sweeps.ray import backend

    heard: list[object] = []
    tune = backend._tune
    monkeypatch.setattr(backend, "_tune", lambda sweep, work: (tune(sweep, work), heard.append(listening())))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    path = command.write("ray", 'backend = "ray"\nworkers = 2')
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert command.here("sweep", path, "--log", "json")[0] == 0
    states = [json.loads(line) for line in err.getvalue().splitlines() if line.startswith("{")]
    assert {state["workers"] for state in states} == {2}
    assert {state["busy"] for state in states} <= {0, 1, 2}
    assert max(state["busy"] for state in states) == 2
    assert "on 2 workers, search" in err.getvalue()
    assert policies(command.rows("ray")) == policies(command.local())
    assert heard == [set()], "every socket is on 127.0.0.1"
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    _gone, alive = psutil.wait_procs(left, timeout=20)
    assert not alive


def test_a_worker_that_dies_and_one_that_hangs_lose_nothing(command: Command, nodes: Nodes) -> None:
    trouble = command.folder / "trouble"
    trouble.mkdir()
    options = f'{{ trouble = "{trouble}" }}'
    rows = command.sweep("ray", nodes.run("trial_timeout_s = 10\nmax_retries = 2"), options)
    assert sorted(path.name for path in trouble.iterdir()) == ["die", "hang"], "both really happened"
    assert [row["trial"] for row in rows] == list(range(14))
    assert {row["status"] for row in rows} == {"ok"}
    assert policies(rows) == policies(command.local(options))


def test_a_policy_that_hangs_every_time_is_recorded_with_the_limit(command: Command, nodes: Nodes) -> None:
    rows = command.sweep("ray", nodes.run("trial_timeout_s = 10\nmax_retries = 0"), "{ hangs = 4 }", "uniform", trials=3)
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"], "two baselines have two-bit weights"
    assert {row["reason"] for row in rows[:2]} == {"no result within trial_timeout_s = 10 s"}


def test_policies_that_always_fail_are_recorded_with_their_reason(command: Command) -> None:
    """NaN, an exception and a lack of memory, as the second layer's weights have it."""
    options, seed = "{ breaks = 4, mixed = true }", "search.seed=3"
    assert command.here("sweep", command.write("local", LOCAL, options), seed, "--log", "plain")[0] == 0
    local = command.rows("local")
    assert {str(row["reason"]).split(":")[0] for row in local} == {"", "BitfrontError", "MemoryError", "RuntimeError"}
    path = command.write("ray", 'backend = "ray"\nworkers = 2\nmax_retries = 1', options)
    code, out, err = command("sweep", path, seed, "--log", "plain")
    assert code == 0, err
    assert out.split()[0] == "ray", "nothing else on standard output"
    rows = command.rows("ray")
    assert [row["trial"] for row in rows] == list(range(14))
    assert f"{sum(row['status'] == 'failed' for row in rows)} attempts made again" in err
    assert policies(rows) == policies(local)
    assert {row["id"]: row["reason"] for row in rows} == {row["id"]: row["reason"] for row in local}


def test_a_process_that_imported_ray_before_joins_a_cluster_on_this_machine(command: Command, nodes: Nodes) -> None:
    code = "import ray, runpy; runpy.run_module('search', run_name='__main__')"
    path = command.write("early", nodes.run(), searcher="ray:OptunaSearch", trials=4)
    done = subprocess.run([sys.executable, "-c", code, "sweep", path], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in command.rows("early")} == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "ilp", "uniform"])
def test_any_number_of_workers_finds_the_same_policies(command: Command, nodes: Nodes, searcher: str) -> None:
    expected = policies(command.local(searcher=searcher, trials=10))
    for workers in (1, 2, 4):
        run = nodes.run("cpus_per_trial = 0.5").replace("workers = 2", f"workers = {workers}")
        assert command.here("sweep", command.write(f"on-{workers}", run, searcher=searcher, trials=10), "--log", "plain")[0] == 0
        assert policies(command.rows(f"on-{workers}")) == expected


@pytest.mark.slow
def test_a_node_and_the_driver_are_killed_and_the_resumed_sweep_equals_an_undisturbed_one(
    command: Command, nodes: Nodes, finished_trials: Callable[[str], dict[str, list[int]]]
) -> None:
    path = command.write("hurt", nodes.run("max_retries = 3").replace("workers = 2", "workers = 3"), "{ sleep = 0.15 }", trials=60)
    with sweeping(path) as driver:
        wait(driver, 20)
        nodes.kill_one()
        wait(driver, 40)
        driver.send_signal(signal.SIGKILL)
    code, _, err = command("resume", "hurt", "--uri", command.uri, "--log", "plain")
    assert code == 0, err
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
            assert driver.stderr
            summary = driver.stderr.read()
        assert driver.returncode == 0, summary
    rows = command.rows("hurt")
    assert [row["trial"] for row in rows] == list(range(24))
    assert {row["status"] for row in rows} == {"ok"}
    assert policies(rows) == policies(command.local("{ sleep = 0.001 }", trials=24))


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def listens(address: str) -> None:
    """Wait until the head of a cluster answers."""
    host, _, port = address.partition(":")
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        time.sleep(0.2)
    pytest.fail(f"nothing listens at {address}")


def worker_of(machine: psutil.Process, driver: "subprocess.Popen[str]") -> psutil.Process:
    """Wait for a process of `machine` that evaluates policies."""
    while driver.poll() is None:
        for process in machine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith("ray::") and "IDLE" not in process.cmdline()[0]:
                    return process
        time.sleep(0.05)
    pytest.fail("the driver ended before the second node had a worker")


@contextlib.contextmanager
def node(ip: str, folder: Path, *arguments: str) -> Iterator[psutil.Process]:
    """Run `ray start` with one CPU, as on a machine of its own, until the context ends; `ip` is one of this machine's loop."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *arguments, "--block"]
    with tempfile.TemporaryDirectory(prefix="bf-", ignore_cleanup_errors=True) as temp, (folder.with_suffix(".log")).open("w") as log:
        own = [
            f"--node-ip-address={ip}",
            "--num-cpus=1",
            "--object-store-memory=83886080",
            "--disable-usage-stats",
            f"--temp-dir={temp}",
        ]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
        dashboard = ["--include-dashboard=false"] if "--head" in arguments else []
        process = psutil.Popen([*command, *own, *dashboard], stdout=log, stderr=log, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(timeout=30)


def sweeping(path: str) -> "subprocess.Popen[str]":
    """Start a sweep whose progress can be read."""
    command = [sys.executable, "-m", "search", "sweep", path, "--log", "json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait(driver: "subprocess.Popen[str]", done: int) -> dict[str, int]:
    """Read the driver's progress until so many trials are done; return what it shows then."""
    assert driver.stderr
    text = ""
    for line in driver.stderr:
        text += line
        if line.startswith("{") and (state := json.loads(line))["done"] >= done:
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
