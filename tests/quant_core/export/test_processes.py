"""Fresh processes: arrays in, arrays out, and one sentence where they fail."""

import numpy as np
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
