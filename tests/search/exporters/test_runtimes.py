"""The table of runtimes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError
from search.exporters.runtimes import RUNTIMES, example_arrays, runtime

PACKAGES = {"litert": "ai_edge_litert", "torch": "torchao"}
"""Runtimes whose module has another name."""


def chain(text: str) -> tuple[Quantized, dict[str, NDArray[Any]]]:
    """Return three linear layers in a row under a policy, and one example."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(8, 64)
    layers = trace(model, x)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    network = post_training(PostTraining(model, layers, [x], x), model, layers, policy, x)
    return network, example_arrays(x)


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"onnxruntim.*executorch.*litert.*onnxruntime.*openvino"):
        runtime("onnxruntim")


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize(
    ("text", "kernel"), [("weight=int8:channel,activation=int8:tensor", "int8"), ("weight=int4:channel", "4-bit weights")]
)
def test_a_network_is_written_run_and_its_kernels_are_named(tmp_path: Path, name: str, text: str, kernel: str) -> None:
    if name != "onnxruntime":
        pytest.importorskip(PACKAGES.get(name, name))
    text = text if name == "torch" else text.replace("weight=int8", "weight=int7")  # 8 bits overflow in kernels without VNNI
    target, (network, arrays) = runtime(name), chain(text)
    path = target.write(network, tmp_path)
    wanted = network.simulation(network.example).detach()[:1]
    assert abs(target.outputs(path, arrays) - wanted.numpy()).max() <= 0.1 * float(wanted.abs().max())
    names = [stored.layer.name for stored in network.stored]
    run_by = [row.kernel for row in target.kernels(path, names).layers]
    unprofiled = name in ("executorch", "litert", "torch")
    first = "float32" if name == "torch" and kernel != "int8" else kernel  # torchao makes floats of packed codes in every call
    last = "8-bit weights" if name in ("executorch", "litert") and kernel == "int8" else first  # XNNPACK needs a quantizer behind
    assert run_by == [first, first, last]
    nodes = target.node_seconds(path, names, arrays, 1, 5)
    assert [layer for layer, _ in nodes if layer] == ([] if unprofiled else names)
    assert all(seconds >= 0 for _, seconds in nodes)
    reference = target.write_float(network.base, network.example, tmp_path)
    assert target.outputs(reference, arrays).shape == tuple(wanted.shape)
