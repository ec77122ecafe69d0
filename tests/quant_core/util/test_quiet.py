"""Standard output holds results only: descriptors, what C has buffered, threads."""

import ast
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from quant_core.util.quiet import quiet_library

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


def test_a_library_that_loads_says_nothing_but_errors(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.root.manager.disable
    with quiet_library():
        warnings.warn("no such GPU library", UserWarning, stacklevel=1)
        logging.getLogger("torchao").warning("Failed to load a library")
        logging.getLogger("torchao").error("out of memory")
    assert [record.message for record in caplog.records] == ["out of memory"]
    assert logging.root.manager.disable == before


USERS = [path for path in (ROOT / "search").rglob("*.py") if "from transformers import" in path.read_text()]


@pytest.mark.parametrize("path", USERS, ids=lambda path: path.name)
def test_networks_of_transformers_are_imported_in_silence(path: Path) -> None:
    """Importing them imports torchao, which warns of every library that is not there, before the table that was asked for."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    quiet = [node for node in nodes if isinstance(node, ast.With) and "quiet_library" in ast.unparse(node.items[0])]
    silent = {inner.lineno for node in quiet for inner in ast.walk(node) if isinstance(inner, ast.ImportFrom)}
    assert {node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "transformers"} <= silent
