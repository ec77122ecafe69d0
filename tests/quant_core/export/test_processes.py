"""Fresh processes: arrays in, arrays out, and one sentence where they fail."""

import numpy as np
import psutil
import pytest

from quant_core.export.processes import fresh_process
from quant_core.util.errors import BitfrontError

_TWICE = """
print("chatter of a runtime")
while (given := read()) is not None:
    if given["x"].size == 0:
        raise ValueError("nothing given")
    write({"y": 2 * given["x"]})
"""


def test_it_answers_and_its_own_prints_do_not_disturb() -> None:
    with fresh_process(_TWICE, runtime="twice") as process:
        for size in (3, 5):
            np.testing.assert_array_equal(process({"x": np.arange(size)})["y"], 2 * np.arange(size))


def test_a_failure_is_one_sentence() -> None:
    with (
        fresh_process(_TWICE, runtime="twice") as process,
        pytest.raises(BitfrontError, match=r"^twice fails in a fresh process: ValueError: nothing given\. Nothing was written\.$"),
    ):
        process({"x": np.empty(0)})
    with fresh_process("import sys; sys.exit(3)", runtime="gone") as process, pytest.raises(BitfrontError, match="gone fails in a fresh"):
        process({"x": np.empty(0)})


def test_arrays_have_any_name() -> None:
    arrays = {name: np.arange(3) for name in ("file", "allow_pickle", "arr_0", "a/b c")}
    with fresh_process("write({name: 2 * values for name, values in read().items()})", runtime="names") as process:
        answer = process(arrays)
    assert list(answer) == list(arrays)
    assert all((values == 2 * np.arange(3)).all() for values in answer.values())


def test_a_process_ends_though_another_one_holds_its_pipes() -> None:
    """The child of the process sleeps on with its pipes open; reading them to their end would wait for it."""
    script = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
write({"pid": numpy.asarray(child.pid)})
read()
"""
    with fresh_process(script, runtime="starts another") as process:
        child = psutil.Process(int(process({})["pid"]))
    try:
        assert child.is_running()
    finally:
        child.kill()
