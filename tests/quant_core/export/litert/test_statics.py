"""What one run of a graph shows."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from quant_core.export.litert.statics import statics
from quant_core.util.errors import InputError


def test_shapes_are_constants_and_values_are_not() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["w", "shape"], ["again"]),
        helper.make_node("Mul", ["x", "again"], ["y"]),
        helper.make_node("Cast", ["stand"], ["z"], to=TensorProto.FLOAT),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])] for name in ("x", "y")]
    constants = [numpy_helper.from_array(np.arange(6, dtype=np.float32), "w"), numpy_helper.from_array(np.zeros(2, dtype=np.int8), "stand")]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    facts = statics(model, {"x": np.ones((2, 3), dtype=np.float32)}, {"stand"})
    assert facts.shapes["again"] == facts.shapes["y"] == (2, 3)
    assert (facts.kinds["shape"], facts.kinds["y"], facts.kinds["stand"]) == ("INT64", "FLOAT32", "INT8")
    assert facts.constants["shape"].tolist() == [2, 3]
    assert facts.constants["again"].shape == (2, 3)
    assert {"x", "y", "z", "stand"}.isdisjoint(facts.constants)
    with pytest.raises(InputError, match=r"^the network does not run on one example, as a file of LiteRT does: .*[^.]\.$"):
        statics(model, {"x": np.ones((2, 5), dtype=np.float32)})
