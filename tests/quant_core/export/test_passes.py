"""Passes over ONNX graphs, against what onnxruntime computes before and after them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quant_core.export.passes import drop_unread, explicit_pads, reads, rename, shorten

X = np.random.default_rng(0).random((1, 2, 9, 9)).astype(np.float32)


def model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(made: onnx.ModelProto) -> NDArray[np.float32]:
    onnx.checker.check_model(made)
    outputs: NDArray[np.float32] = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": X})[0]
    return outputs


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1)])
@pytest.mark.parametrize("named", [True, False])
def test_explicit_pads_are_those_of_same(mode: str, kernel: tuple[int, int], named: bool) -> None:
    weight = numpy_helper.from_array(np.random.default_rng(1).random((3, 2, *kernel)).astype(np.float32), "w")
    attributes = {"kernel_shape": kernel} if named else {}
    made = model([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=mode, **attributes)], [weight])
    before = run(made)
    explicit_pads(made.graph)
    assert "auto_pad" not in {attribute.name for attribute in made.graph.node[0].attribute}
    np.testing.assert_allclose(run(made), before, rtol=1e-5)


def test_explicit_pads_count_the_dilation() -> None:
    weight = numpy_helper.from_array(np.ones((1, 2, 2, 3), dtype=np.float32), "w")
    made = model([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", dilations=(3, 2), strides=(1, 1))], [weight])
    explicit_pads(made.graph)
    pads = {attribute.name: list(attribute.ints) for attribute in made.graph.node[0].attribute}["pads"]
    assert pads == [1, 2, 2, 2]
    assert run(made).shape == (1, 1, 9, 9)


def branching() -> onnx.ModelProto:
    """y = x doubled or halved by If, whose branches read two values of the graph around them."""
    info = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "c", "h", "w"])
    branches = [
        helper.make_graph([helper.make_node(operator, ["inner", "factor"], ["out"])], operator, [], [info]) for operator in ("Mul", "Div")
    ]
    nodes = [
        helper.make_node("Identity", ["x"], ["/a/long/name"]),
        helper.make_node("Identity", ["/a/long/name"], ["inner"]),
        helper.make_node("Identity", ["x"], ["unread"]),
        helper.make_node("If", ["condition"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    return model(nodes, [numpy_helper.from_array(np.array(True), "condition"), numpy_helper.from_array(np.float32(2), "factor")])


def test_values_that_bodies_read_stay_and_keep_their_names() -> None:
    made = branching()
    assert reads(made.graph.node[3]) == {"condition", "inner", "factor", "out"}
    drop_unread(made.graph)
    shorten(made.graph)
    assert [list(node.output) for node in made.graph.node] == [["v0"], ["inner"], ["y"]]
    np.testing.assert_array_equal(run(made), 2 * X)


def test_names_are_replaced_within_bodies() -> None:
    made = branching()
    rename(made.graph.node[3], {"inner": "/a/long/name"})
    drop_unread(made.graph)
    assert len(made.graph.node) == 2
    np.testing.assert_array_equal(run(made), 2 * X)
