"""ONNX integer types: packed integers read back, and the narrowest type that runs."""

import numpy as np
import onnx
import pytest

from quant_core.export.carriers import Carrier, tensor, weight_carrier


@pytest.mark.parametrize("name", ["INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16"])
def test_integers_read_back_from_every_carrier(name: str) -> None:
    kind = Carrier(name, int(name.removeprefix("U")[3:]))
    values = np.random.default_rng(0).integers(kind.range[0], kind.range[1] + 1, (3, 7))
    assert np.array_equal(onnx.numpy_helper.to_array(tensor("t", values, kind)).astype(np.int64), values)


def test_carriers_are_the_narrowest_that_run() -> None:
    assert weight_carrier(8, signed=True, activation=True) == Carrier("INT8", 8)
    assert weight_carrier(9, signed=False, activation=False) == Carrier("UINT16", 16)
    assert weight_carrier(4, signed=True, activation=False) == Carrier("INT4", 4)
