"""Weights of float convolutions become floats once, as onnxruntime loads a graph: nothing of them is dequantized in a call."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from quant_core.export.graph import quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, post_training
from quant_core.export.stored_types import stored_types
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

INT8 = "weight=int4:channel,activation=int8:tensor"


def network(*texts: str) -> Quantized:
    """Return four convolutions, of two axes, depthwise, transposed and 1 x 1, under policies in turns."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = (nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.ReLU(), nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU())
        model, batch = nn.Sequential(*parts, nn.Conv2d(16, 8, 1)).eval(), torch.randn(2, 8, 8, 8)
    layers = trace(model, batch)
    policy = Policy({layer.name: parse_layer_policy(texts[i % len(texts)]) for i, layer in enumerate(layers)})
    return post_training(PostTraining(model, layers, [batch], batch), model, layers, policy, batch)


def written(quantized: Quantized, folder: Path) -> tuple[Path, Counter[str]]:
    """Return the file, and how many operations of every kind onnxruntime runs."""
    path, options = folder / "model.onnx", onnxruntime.SessionOptions()
    onnx.save(quantized_graph(quantized).model, path)
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path, Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("weight", ["int8:channel", "int4:channel", "int2:channel", "int4:channel:affine", "int5:tensor"])
def test_weights_of_float_inputs_are_dequantized_as_the_graph_is_loaded(tmp_path: Path, weight: str) -> None:
    quantized = network(f"weight={weight}")
    path, operations = written(quantized, tmp_path)
    assert operations["DequantizeLinear"] == operations["Cast"] == operations["Mul"] == 0
    wanted = quantized.simulation(quantized.example).detach()
    outputs = Session(path, ["input"]).arrays({"input": quantized.example.numpy()})
    assert abs(outputs - wanted.numpy()).max() <= 1e-6 * float(wanted.abs().max()) + 1e-7
    assert "FLOAT" not in stored_types(path, quantized.stored)


def test_blocks_that_divide_the_rows_are_folded_and_others_are_left_to_the_runtime(tmp_path: Path) -> None:
    assert written(network("weight=int4:group8"), tmp_path)[1]["DequantizeLinear"] == 1  # the depthwise one has rows of 9
    path, _ = written(quantized := network("weight=int4:group8"), tmp_path)
    wanted = quantized.simulation(quantized.example).detach().numpy()
    assert abs(Session(path, ["input"]).arrays({"input": quantized.example.numpy()}) - wanted).max() <= 1e-6


def test_convolutions_between_quantizers_stay_integer(tmp_path: Path) -> None:
    assert written(network(INT8), tmp_path)[1]["QLinearConv"] == 2


def test_a_convolution_without_a_quantizer_behind_it_is_float_and_its_weight_is_dequantized_once(tmp_path: Path) -> None:
    _, operations = written(network(INT8, "weight=int8:channel"), tmp_path)
    assert operations["QLinearConv"] == 0
    assert operations["DequantizeLinear"] == 2, "of the two quantized inputs alone"
