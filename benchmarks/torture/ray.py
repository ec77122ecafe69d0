"""Sweeps on Ray whose worker, node, GCS, agent or driver is killed at a random moment, and which are then taken up until they end."""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from benchmarks.torture.child import ROOT, add
from search import tracking
from search.records.front import front_members
from search.tracking import names

NAME, COUNT, LONGEST_S = "tortured", 40, 1200.0
KINDS = ("agent", "worker", "gcs", "driver")
_PROCESSES = {"worker": ("ray::PolicyTrial", "ray::ResourceTrainable"), "gcs": ("gcs_server",), "agent": ("ray::DashboardAgent",)}
_EXPERIMENT = """
name = "{name}"
[task]
name = "benchmarks.torture.own:make"
[space]
weight = {{ bits = [2, 3, 4, 8], granularity = "channel" }}
activation = ["int8:tensor", "int4:tensor"]
[device]
name = "counts"
objectives = ["error", "weight_bytes"]
[search]
searcher = "random"
trials = {count}
seed = 7
[track]
uri = "sqlite:///{folder}/mlflow.db"
[run]
{run}
"""
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "OMP_NUM_THREADS": "1",
}


class Driver:
    """A process that runs or resumes the sweep; `done` is the number of trials that it says have ended."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "t"), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "search", *arguments, "--log", "json"]
        self.process = psutil.Popen(
            command,
            cwd=folder,
            env=environment | {"BITFRONT_CACHE": str(folder / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.done, self.began, self.said = 0, threading.Event(), ""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        first = -1
        for line in self.process.stderr:
            text = line.decode(errors="replace")
            state = json.loads(text) if text.startswith("{") else {}
            if "per_second" not in state:
                self.said += "" if state else text
                continue
            self.done = state["done"]
            first = self.done if first < 0 else first
            if self.done > first:
                self.began.set()
        self.began.set()

    def end(self) -> int:
        """Wait for its end, and that of what it leaves behind to tidy up; return its exit code."""
        code: int = self.process.wait(LONGEST_S)
        self._thread.join()
        self.process.stderr.close()
        return code

    def kill(self, kind: str) -> bool:
        """Kill one of its processes; tell whether there was one."""
        if kind == "driver":
            self.process.kill()
            return True
        with contextlib.suppress(psutil.Error):
            for process in self.process.children(recursive=True):
                with contextlib.suppress(psutil.Error, IndexError):
                    if process.name() in _PROCESSES[kind] or process.cmdline()[0].startswith(_PROCESSES[kind]):
                        process.kill()
                        return True
        return False


def attack(tries: int, rng: random.Random) -> dict[str, int]:
    """Kill so often: a fifth of the kills are of nodes, the others in turn of a worker, the GCS, an agent and the driver."""
    total, expected = {"lost": 0, "duplicated": 0, "untidy": 0}, _undisturbed()
    of_nodes = tries // (len(KINDS) + 1)
    left = [KINDS[number % len(KINDS)] for number in range(tries - of_nodes)]
    rng.shuffle(left)
    while of_nodes > 0:
        killed, faults = _node_chain(of_nodes, expected, rng)
        of_nodes -= killed
        add(total, faults)
        print(f"ray: so far {total}", file=sys.stderr, flush=True)
    while left:
        with _folder('backend = "ray"\nworkers = 2\nmax_retries = 9') as folder:
            add(total, _chain(folder, left, expected, rng))
        print(f"ray: so far {total}", file=sys.stderr, flush=True)
    return total


@contextlib.contextmanager
def _folder(run: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tt-", ignore_cleanup_errors=True) as name:  # short: Ray puts sockets below it
        folder = Path(name)
        (folder / "t").mkdir()
        (folder / "e.toml").write_text(_EXPERIMENT.format(name=NAME, count=COUNT, folder=folder, run=run))
        yield folder


def _undisturbed() -> Mapping[int, tuple[object, ...]]:
    """Return what every trial gives where nothing is killed, and Ray is not there."""
    with _folder('backend = "local"') as folder:
        if Driver(folder, "sweep", "e.toml").end():
            raise RuntimeError("the sweep that is to be attacked fails by itself")
        return _figures(folder)


def _figures(folder: Path) -> dict[int, tuple[object, ...]]:
    record = tracking.read(f"sqlite:///{folder}/mlflow.db", NAME)
    return {trial.number: (trial.policy.id, trial.result.metrics["error"], trial.result.status) for trial in record.trials}


def _chain(folder: Path, left: list[str], expected: Mapping[int, tuple[object, ...]], rng: random.Random) -> dict[str, int]:
    """Attack one sweep until it ends or nothing is `left` to try."""
    faults = {"lost": 0, "duplicated": 0, "untidy": 0}
    driver, uri = Driver(folder, "sweep", "e.toml"), f"sqlite:///{folder}/mlflow.db"
    while True:
        while left:
            driver.began.wait(LONGEST_S)
            time.sleep(rng.uniform(0.0, 1.5))
            if driver.process.poll() is not None or not driver.kill(left[-1]):
                break
            print(f"ray: killed {left[-1]} at trial {driver.done}, {len(left) - 1} kills to come", file=sys.stderr, flush=True)
            if left.pop() != "worker":
                break
            time.sleep(3)  # that another worker is there for the next kill
        code, done = driver.end(), driver.done
        faults["lost"] += max(0, done - len(_figures(folder)))
        print(f"ray: exit code {code}, this sweep so far {faults}", file=sys.stderr, flush=True)
        if code == 0:
            return _at_the_end(folder, expected, faults)
        if "bitfront resume" not in driver.said:
            faults["untidy"] += 1
            print(driver.said[-2000:], file=sys.stderr)
        faults["untidy"] += _left_behind(folder)
        driver = Driver(folder, "resume", NAME, "--uri", uri, "--trust")


def _node_chain(most: int, expected: Mapping[int, tuple[object, ...]], rng: random.Random) -> tuple[int, dict[str, int]]:
    """Kill the second node of a cluster again and again while a sweep runs on it."""
    faults, killed = {"lost": 0, "duplicated": 0, "untidy": 0}, 0
    command, pipe = [sys.executable, "-W", "ignore", "-m", "benchmarks.torture.nodes"], subprocess.PIPE
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="tn-", ignore_cleanup_errors=True) as place:
        environment["RAY_TMPDIR"] = place
        (Path(place) / "ray").mkdir()
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment) as cluster:
            assert cluster.stdin
            assert cluster.stdout
            run = f'backend = "ray"\nworkers = 2\nmax_retries = 9\naddress = "{cluster.stdout.readline().strip()}"'
            with _folder(run) as folder:
                driver = Driver(folder, "sweep", "e.toml")
                driver.began.wait(LONGEST_S)
                while killed < most and driver.process.poll() is None and driver.done < COUNT:
                    cluster.stdin.write("kill\n")
                    cluster.stdin.flush()
                    cluster.stdout.readline()
                    killed += 1
                    print(f"ray: killed node at trial {driver.done}", file=sys.stderr, flush=True)
                    time.sleep(rng.uniform(1.0, 3.0))
                if driver.end() != 0:
                    faults["untidy"] += 1
                    print(driver.said[-2000:], file=sys.stderr, flush=True)
                faults = _at_the_end(folder, expected, faults)
            cluster.stdin.close()
    return max(1, killed), faults


def _at_the_end(folder: Path, expected: Mapping[int, tuple[object, ...]], faults: dict[str, int]) -> dict[str, int]:
    """Compare a sweep that ended with one that nothing disturbed."""
    uri = f"sqlite:///{folder}/mlflow.db"
    held, record = _figures(folder), tracking.read(uri, NAME)
    faults["lost"] += sum(held.get(number) != figures for number, figures in expected.items())
    rows = tracking.reading.family(uri, tracking.reading.find_sweep(uri, NAME))[1]
    faults["duplicated"] += len(rows) - len({row.tags[names.TRIAL] for row in rows})
    tagged = {int(row.tags[names.TRIAL]) for row in rows if row.tags[names.PARETO] == "true"}
    if tagged != (front := {trial.number for trial in front_members(record)}):
        faults["untidy"] += 1
        print(f"tagged as the front: {sorted(tagged)}, and it is {sorted(front)}", file=sys.stderr)
    if kept := [path.name for path in (folder / ".bitfront").iterdir() if path.name != "mlflow.lock"]:
        faults["untidy"] += len(kept)
        print(f"left beside the store: {kept}", file=sys.stderr)
    faults["untidy"] += _left_behind(folder)
    return faults


def _left_behind(folder: Path) -> int:
    """Return how many of Ray's processes and folders are there half a minute after the driver's end."""
    for _ in range(60):
        folders = [path for path in (folder / "t").glob("bf-*") if path.is_dir()]
        processes = [process for process in psutil.process_iter() if f"{folder}/t/bf-ray-" in _command(process)]
        if not folders and not processes:
            return 0
        time.sleep(0.5)
    print(f"left behind: {folders} {processes}", file=sys.stderr)
    return len(folders) + len(processes)


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
