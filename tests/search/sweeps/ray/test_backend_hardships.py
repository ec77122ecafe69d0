"""Clusters under hard conditions: modules that only the driver has, workers without memory, two sweeps at once, more workers than CPUs."""

import contextlib
from pathlib import Path

import pytest

from tests.forked import Started
from tests.search.sweeps.ray.cases import LOCAL, Command, Nodes, policies

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
LONELY = """
import os, resource, sys
from pathlib import Path
sys.path.append(str(Path(__file__).parent / "hidden"))
import own_task
from netcode import Wrapped, Vanishing

def make():
    task = own_task.make()
    return own_task.Task(Wrapped(task.model), task.train, task.calib, task.valid, task.test)

def vanishing():
    task = own_task.make()
    return own_task.Task(Vanishing(task.model, os.getpid()), task.train, task.calib, task.valid, task.test)

def cramped():
    task = own_task.make()
    return own_task.Task(Wrapped(task.model, os.getpid()), task.train, task.calib, task.valid, task.test)
"""
NETCODE = """
import os, resource
from pathlib import Path
import torch

class Wrapped(torch.nn.Module):
    def __init__(self, body, home=0):
        super().__init__()
        self.body, self.home = body, home
    def forward(self, x):
        if self.home and self.home != os.getpid() and len(self.body[0].weight[0].unique()) <= 4:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))
            torch.zeros(2**30)
        return self.body(x)

class Vanishing(torch.nn.Module):
    def __init__(self, body, home):
        super().__init__()
        self.body, self.home = body, home
    def forward(self, x):
        if self.home != os.getpid():
            open("/nowhere/classes.txt")
        return self.body(x)
"""


@pytest.fixture
def lonely(command: Command) -> Command:
    """Return a command in a folder with a task of its own, whose network lies in a folder that only the task knows."""
    hidden = command.folder / "hidden"
    hidden.mkdir()
    (command.folder / "lonely.py").write_text(LONELY)
    (hidden / "netcode.py").write_text(NETCODE)
    return command


def of(command: Command, name: str, function: str, run: str, trials: int = 8) -> str:
    path = Path(command.write(name, run, trials=trials))
    path.write_text(path.read_text().replace("own_task:make", f"lonely:{function}"))
    return str(path)


def test_a_module_that_only_the_driver_reaches_is_imported_by_workers(lonely: Command, nodes: Nodes) -> None:
    code, _, err = lonely("sweep", of(lonely, "far", "make", nodes.run()), "--log", "plain")
    assert code == 0, err
    assert "0 attempts made again" in err
    expected = {row["trial"]: row["accuracy_valid"] for row in lonely.local(trials=8)}  # the same network without its wrapper
    assert {row["trial"]: row["accuracy_valid"] for row in lonely.rows("far")} == expected


def test_what_no_worker_can_read_ends_the_sweep_at_once(lonely: Command, nodes: Nodes) -> None:
    code, _, err = lonely("sweep", of(lonely, "gone", "vanishing", nodes.run("max_retries = 9")), "--log", "plain")
    assert code == 1
    assert "cannot read a file of the task: " in err
    assert "/nowhere/classes.txt" in err
    assert "No trial was tried again" in err
    assert lonely.rows("gone") == [], "nothing counts as a failed trial"


def test_workers_without_memory_fail_their_trials_and_no_others(lonely: Command, nodes: Nodes) -> None:
    code, _, err = lonely("sweep", of(lonely, "cramped", "cramped", nodes.run("max_retries = 1")), "--log", "plain")
    assert code == 0, err
    rows, local = lonely.rows("cramped"), {row["trial"]: row for row in lonely.local(trials=8)}
    failed = [row for row in rows if row["status"] == "failed"]
    assert 0 < len(failed) < len(rows)
    assert all("alloc" in str(row["reason"]) for row in failed), failed
    assert all(row["accuracy_valid"] == local[row["trial"]]["accuracy_valid"] for row in rows if row not in failed)


def test_two_sweeps_on_one_cluster_with_more_workers_than_it_has_cpus(command: Command, nodes: Nodes) -> None:
    run = nodes.run().replace("workers = 2", "workers = 5")
    sweeps = [command.write(name, run, trials=8) for name in ("one", "two")]
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(Started("sweep", path, "--log", "plain")) for path in sweeps]
        ends = [(driver.communicate(timeout=400)[1], driver.returncode) for driver in drivers]
    assert [code for _, code in ends] == [0, 0], ends
    expected = policies(command.local(trials=8))
    assert policies(command.rows("one")) == policies(command.rows("two")) == expected


def test_a_task_that_cannot_be_pickled_is_refused_before_a_cluster_is_there(command: Command) -> None:
    path = Path(command.write("locked", LOCAL.replace("local", "ray"), trials=3))
    (command.folder / "locked_task.py").write_text(
        "import own_task, threading\nfrom dataclasses import replace\n"
        "def make():\n    lock = threading.Lock()\n    def score(outputs, targets):\n        with lock:\n"
        "            return (outputs.argmax(1) == targets).float()\n    return replace(own_task.make(), score=score)\n"
    )
    path.write_text(path.read_text().replace("own_task:make", "locked_task:make"))
    code, _, err = command("sweep", str(path), "--log", "plain")
    assert code == 2, err
    assert "score.lock is a lock, which cannot be pickled" in err
    assert "starting a cluster" not in err
