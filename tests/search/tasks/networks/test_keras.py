"""The graph of a Keras network."""

import pytest
import torch

from search.tasks.networks.keras import KerasGraph, pad_same


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    # From the definition of SAME in TensorFlow's documentation of tf.nn: total = max((ceil(n / s) - 1) s + k - n, 0), the odd one last.
    [(32, 3, 1, (1, 1)), (32, 3, 2, (0, 1)), (33, 3, 2, (1, 1)), (49, 10, 2, (4, 5)), (10, 4, 2, (1, 1)), (32, 1, 2, (0, 0))],
)
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    padded = pad_same(torch.ones(1, 1, size, 5), (kernel, 1), (stride, 1))[0, 0, :, 0]
    assert padded.tolist() == [0.0] * pads[0] + [1.0] * size + [0.0] * pads[1]


def test_keras_graph_adds_branches() -> None:
    nodes = [
        {"op": "InputLayer", "name": "x", "inputs": []},
        {"op": "Dense", "name": "a", "inputs": ["x"]},
        {"op": "Activation", "name": "r", "inputs": ["a"]},
        {"op": "Add", "name": "s", "inputs": ["r", "x"]},
    ]
    graph = KerasGraph(nodes, {"a.kernel": torch.tensor([[1.0, 0.0], [0.0, -1.0]]), "a.bias": torch.tensor([0.0, 1.0])})
    assert graph(torch.tensor([[2.0, 3.0]])).tolist() == [[4.0, 3.0]]
