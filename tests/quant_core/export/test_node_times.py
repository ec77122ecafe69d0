"""The time of operations by onnxruntime's profiler, and the layers that they compute."""

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from quant_core.export.node_times import low_mean, owners


def test_the_lowest_fifth_of_times_counts() -> None:
    assert low_mean([1.0, 3.0, 100.0, 100.0, 100.0]) == 2.0
    assert low_mean([5.0]) == 5.0


def owned(names: list[str], *nodes: NodeProto) -> list[str]:
    """Return the owners of nodes; what begins with `w`, or has `weight` in its name, is a constant."""
    constants = {name for node in nodes for name in node.input if name.startswith("w") or "weight" in name}
    tensors = [numpy_helper.from_array(np.zeros((2, 2), np.float32), name) for name in sorted(constants)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    layers = owners(helper.make_graph(list(nodes), "g", ends[:1], ends[1:], tensors), names)
    return [layers.get(i, "") for i in range(len(nodes))]


def node(kind: str, name: str, *inputs: str) -> NodeProto:
    return helper.make_node(kind, list(inputs), ["_".join(("out", name, *inputs))], name=name)


@pytest.mark.parametrize(
    ("made", "layer"),
    [
        (node("MatMul", "/model/enc/layer.0/query/MatMul", "x", "w1"), "enc.layer.0.query"),
        (node("MatMul", "/model/a/a.0/a.0.1/MatMul", "x", "w1"), "a.0.1"),
        (node("Conv", "fused 3", "x", "enc.layer.0.query.weight.codes"), "enc.layer.0.query"),
        (node("MatMulNBits", "enc.layer.0.query", "x", "w1"), "enc.layer.0.query"),
        (node("Gather", "/model/words/Gather", "model.words.weight", "x"), "words"),
        (node("Gather", "/model/Gather", "x", "w1"), ""),
        (node("Relu", "/model/a/a.0/a.0.1/Relu", "x"), ""),
        (node("MatMul", "/model/other/MatMul", "x", "w1"), ""),
    ],
)
def test_a_node_is_the_layers_whose_weight_or_module_it_names(made: NodeProto, layer: str) -> None:
    assert owned(["words", "enc.layer.0.query", "a.0.1"], made) == [layer]


def test_layers_that_run_in_another_order_than_the_networks_keep_their_own_times() -> None:
    nodes = [node("MatMul", f"/model/{name}/MatMul", "x", f"w{name}") for name in ("value", "query")]
    assert owned(["query", "value"], *nodes) == ["value", "query"]


def test_products_without_names_are_the_layers_in_their_order_where_there_are_as_many() -> None:
    nodes = [node("Conv", "", "x", "w1"), node("Relu", "", "x"), node("Conv", "", "x", "w2")]
    assert owned(["a", "b"], *nodes) == ["a", "", "b"]
    assert owned(["a", "b", "c"], *nodes) == ["", "", ""]
