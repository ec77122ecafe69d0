"""The folder of a sweep on Ray, and the process beside it: nothing stays behind where a driver is killed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from search.sweeps.ray import folders, guard

ROOT = Path(__file__).parents[4]
DRIVER = """
import subprocess, sys, time
from search.sweeps.ray.folders import sweep_folder
with sweep_folder("the sweep ended; `bitfront resume x` continues it.") as folder:
    log = (folder / "raylet.log").open("w")
    left = subprocess.Popen(["sleep", "600"], stdout=log, stderr=subprocess.DEVNULL)
    started = subprocess.Popen(["tail", "-f", "/dev/null", f"{folder}/x"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(folder, left.pid, started.pid, flush=True)
    sys.stdin.read()
    started.kill()
    left.kill()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(guard, "GRACE_S", 0.2)
    return tmp_path


def driver() -> "tuple[subprocess.Popen[str], Path, list[int]]":
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout
    folder, *pids = process.stdout.readline().split()
    return process, Path(folder), [int(pid) for pid in pids]


def test_a_driver_that_is_killed_leaves_no_process_and_no_folder_and_is_told_of(place: Path) -> None:
    process, folder, pids = driver()
    process.kill()
    assert process.stderr
    assert process.communicate()[1] == "the sweep ended; `bitfront resume x` continues it.\n", "the guard holds standard error to its end"
    assert not folder.exists()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=300)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_a_driver_that_ends_well_leaves_nothing_and_nothing_is_said(place: Path) -> None:
    process, folder, _pids = driver()
    assert folder.is_dir()
    assert process.communicate("")[1] == ""
    assert process.returncode == 0
    assert [path.name for path in place.iterdir()] == [f"bf-ray-{guard.os.getuid()}.lock"]


def test_a_later_sweep_clears_what_driver_and_guard_left_together(place: Path) -> None:
    process, folder, pids = driver()
    (beside,) = [child for child in psutil.Process(process.pid).children() if any("guard.py" in word for word in child.cmdline())]
    beside.kill()
    with folders.sweep_folder("") as own:
        assert folder.is_dir(), "its driver lives"
        process.kill()
        process.wait()
        assert folder.is_dir()
    with folders.sweep_folder("") as own:
        assert [path for path in place.iterdir() if path.is_dir()] == [own]
    process.communicate()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=300)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
