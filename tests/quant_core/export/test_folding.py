"""Shape arithmetic and padding of graphs, against what onnxruntime computes before and after them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quant_core.export.folding import fold_pads, fold_shapes

X = np.random.default_rng(0).random((1, 2, 6, 6)).astype(np.float32)
WEIGHT = numpy_helper.from_array(np.random.default_rng(1).random((3, 2, 3, 3)).astype(np.float32), "w")


def model(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "test", ends[:1], ends[1:], [WEIGHT, *tensors])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(made: onnx.ModelProto) -> NDArray[np.float32]:
    onnx.checker.check_model(made)
    outputs: NDArray[np.float32] = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": X})[0]
    return outputs


def padded(pads: object = (0, 0, 0, 1, 0, 0, 2, 1), value: float = 0.0, mode: str = "constant", **attributes: object) -> onnx.ModelProto:
    """y = conv(pad(x)), with the amounts computed from constants."""
    nodes = (
        helper.make_node("Concat", ["first", "second"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads", "value"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"], **attributes),
    )
    amounts = np.array(pads, dtype=np.int64)
    return model(*nodes, first=amounts[:3], second=amounts[3:], value=np.float32(value))


def folded(made: onnx.ModelProto) -> list[str]:
    """Return the operators after both passes, which must not change the output."""
    before = run(made)
    fold_shapes(made)
    fold_pads(made.graph, ())
    np.testing.assert_allclose(run(made), before, rtol=1e-6)
    return [node.op_type for node in made.graph.node]


def test_zero_padding_joins_that_of_the_convolution() -> None:
    assert folded(padded()) == ["Conv"]
    made = padded(dilations=[2, 1], strides=[2, 1])
    made.graph.node[2].attribute.append(helper.make_attribute("pads", [1, 0, 0, 1]))
    assert folded(made) == ["Conv"]
    assert list(helper.get_node_attr_value(made.graph.node[0], "pads")) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "made",
    [
        lambda: padded(value=1.0),
        lambda: padded(mode="reflect"),
        lambda: padded(mode="edge"),
        lambda: padded(pads=(0, 0, -1, 0, 0, 0, 0, 0)),
        lambda: padded(auto_pad="SAME_UPPER"),
    ],
)
def test_other_padding_stays(made: object) -> None:
    assert callable(made)
    assert folded(made()) == ["Pad", "Conv"]


def test_padding_that_something_else_reads_stays() -> None:
    made = padded()
    made.graph.node[2].output[0] = "c"
    made.graph.node.append(helper.make_node("Pad", ["p", "pads"], ["q"]))
    made.graph.node.append(helper.make_node("Conv", ["q", "w"], ["d"]))
    made.graph.node.append(helper.make_node("ReduceMax", ["d"], ["m"]))
    made.graph.node.append(helper.make_node("Add", ["c", "m"], ["y"]))
    assert folded(made) == ["Pad", "Conv", "Conv", "ReduceMax", "Add"], "the inner one is folded, the shared one is not"


def test_float_arithmetic_of_constants_stays() -> None:
    made = model(helper.make_node("Add", ["a", "a"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"]), a=np.float32(0.1))
    assert folded(made) == ["Add", "Mul"]
