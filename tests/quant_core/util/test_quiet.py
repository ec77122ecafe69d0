"""Standard output holds results only: descriptors, what C has buffered, threads."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
START = f"""
import ctypes, os, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from quant_core.util.quiet import quiet_stdout
"""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # C's output too
    return subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=True, timeout=600, env=buffered)


def test_what_c_writes_and_what_it_only_buffers_goes_to_standard_error() -> None:
    code = """
print("before")
with quiet_stdout():
    os.write(1, b"written ")
    ctypes.CDLL(None).printf(b"buffered ")
print("after")
"""
    done = run(code)
    assert done.stdout == "before\nafter\n"
    assert "written" in done.stderr
    assert "buffered" in done.stderr


def test_blocks_within_each_other_and_errors_put_the_descriptor_back() -> None:
    code = """
try:
    with quiet_stdout(), quiet_stdout():
        os.write(1, b"quiet")
        raise ValueError
except ValueError:
    os.write(1, b"loud")
"""
    assert run(code).stdout == "loud"


def test_two_threads_do_not_keep_each_others_redirection() -> None:
    code = """
inside, entered = threading.Event(), threading.Event()

def first():
    with quiet_stdout():
        inside.set()
        entered.wait(0.3)

def second():
    inside.wait()
    with quiet_stdout():
        entered.set()
        time.sleep(0.3)

threads = [threading.Thread(target=task) for task in (first, second)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os.write(1, b"loud")
"""
    assert run(code).stdout == "loud"


def test_a_closed_standard_output_is_no_error() -> None:
    assert run("os.close(1)\nsys.stdout = None\nwith quiet_stdout():\n    pass\n").stdout == ""
