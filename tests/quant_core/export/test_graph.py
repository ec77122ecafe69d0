"""ONNX graphs: what onnxruntime computes from them against the simulation, what they store, and what is refused."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from quant_core.export.graph import Graph, divisor, quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import StoredLayer, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import InputError
from tests.quant_core.export.small_networks import Mixed, Texts

X = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))

networks: dict[PostTraining, nn.Module] = {}  # what every engine was made of


@pytest.fixture(scope="module")
def mixed() -> PostTraining:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Mixed()
        model(X)  # gives the batch norm statistics
        model.eval()
    return calibrated(model, X)


def exported(engine: PostTraining, text: str, inputs: Tensor, *, allow: bool = False) -> tuple[Graph, Tensor, tuple[StoredLayer, ...]]:
    """Return the graph of one uniform policy, and what the simulation gives."""
    layers = list(engine._layers.values())
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    network = post_training(engine, networks[engine], layers, policy, inputs)
    graph = quantized_graph(network, allow)
    with torch.no_grad():
        return graph, network.simulation(inputs), network.stored


def calibrated(model: nn.Module, inputs: Tensor) -> PostTraining:
    engine = PostTraining(model, trace(model, inputs), [inputs], inputs)
    networks[engine] = model
    return engine


WEIGHTS = (
    "int8:channel",
    "int8:tensor:affine",
    "int4:channel:mse",
    "int4:tensor",
    "int4:group4",
    "int3:group32:affine",
    "int2:channel",
    "int1:channel",
    "int6:group5:fp32",
    "int4:group4:e8m0",
    "int5:channel:affine",
    "int12:channel",
    "int16:group8",
    "int4:vector16",
    "int6:vector4:tensor:s6",
    "nvfp4",
    "int4:channel:adaround",
    "int4:channel:mse:gptq",
    "int3:group32:affine:gptq",
    "nvfp4:gptq",
    "int4:channel:stochastic",
    "float",
)


@pytest.mark.parametrize("spec", WEIGHTS)
def test_weights_give_the_simulated_outputs(mixed: PostTraining, spec: str) -> None:
    graph, wanted, stored = exported(mixed, f"weight={spec}", X)
    outputs = Session(graph.model.SerializeToString(), ["input"])(X)
    torch.testing.assert_close(outputs, wanted, rtol=1e-4, atol=1e-5)
    floats = {
        constant.name: int(np.prod(constant.dims))
        for constant in graph.model.graph.initializer
        if constant.data_type == onnx.TensorProto.FLOAT
    }
    for layer in stored:
        if layer.encoded is not None:
            assert all(count < layer.weight.numel() or "scale" in name for name, count in floats.items()), "a float weight is left"
    assert graph.model.opset_import[0].version >= 21
    if spec != "float":
        layers = [layer.layer for layer in stored]
        modelled = weight_bytes(layers, Policy({layer.layer.name: layer.policy for layer in stored}))
        assert graph.payload <= 1.05 * (modelled + graph.extra) + 48 * len(layers), "48 bytes: the shape that rows are brought into"


@pytest.mark.parametrize(
    "activation", ["int8:tensor:ema", "int8:tensor:affine", "int6:tensor", "int4:tensor:affine", "int2:tensor", "int16:tensor"]
)
def test_activations_give_the_simulated_outputs(mixed: PostTraining, activation: str) -> None:
    """Without fusion nothing differs but an activation that lies half-way between two codes, now and then."""
    graph, wanted, stored = exported(mixed, f"weight=int8:channel,activation={activation}", X)
    outputs = Session(graph.model.SerializeToString(), ["input"], fuse=False)(X)
    assert float(((outputs - wanted).abs() > 1e-4).any(dim=1).float().mean()) <= 0.25
    assert float((outputs - wanted).abs().max()) <= 0.05 * float(wanted.abs().max())
    silent, _, _ = exported(mixed, "weight=int8:channel", X)
    assert (Session(silent.model.SerializeToString(), ["input"])(X) - wanted).abs().max() > 1e-6, "the quantizers are in the graph"
    assert all(layer.grid is not None for layer in stored)


def test_another_batch_size_runs(mixed: PostTraining) -> None:
    graph, wanted, _ = exported(mixed, "weight=int4:channel", X)
    assert torch.allclose(Session(graph.model.SerializeToString(), ["input"])(X[:3]), wanted[:3], atol=1e-5)


def test_a_tied_weight_is_stored_once() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(20, (4, 7))
    model = Texts().eval()
    engine = calibrated(model, tokens)
    graph, wanted, _ = exported(engine, "weight=int8:channel,activation=int8:tensor", tokens)
    assert sum(constant.name.endswith(".codes") for constant in graph.model.graph.initializer) == 1
    floats = [
        constant.name
        for constant in graph.model.graph.initializer
        if constant.data_type == onnx.TensorProto.FLOAT and np.prod(constant.dims) > 20
    ]
    assert not floats, "a float copy of the weight is left"
    outputs = Session(graph.model.SerializeToString(), ["input"], fuse=False)(tokens)
    assert float((outputs - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("spec", "instead"),
    [
        ("kmeans4:tensor", "use intN:channel"),
        ("mx6", "use int4:group32"),
        ("ternary:twn", "use int2:channel"),
        ("mxfp4", "use nvfp4"),
        ("binary:channel", "use int2"),
    ],
)
def test_formats_without_an_onnx_operator_are_refused_or_stored_dequantized(mixed: PostTraining, spec: str, instead: str) -> None:
    with pytest.raises(InputError, match=f"layer 'stem.0': ONNX has no operator for {spec}; {instead}.*--allow-dequantized"):
        exported(mixed, f"weight={spec}", X)
    graph, wanted, _ = exported(mixed, f"weight={spec}", X, allow=True)
    assert "stored dequantized, in float32: stem.0, " in graph.notes[0]
    torch.testing.assert_close(Session(graph.model.SerializeToString(), ["input"])(X), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["int8:token", "int8:tensor:dynamic", "mxint8"])
def test_ranges_of_each_batch_are_refused(mixed: PostTraining, activation: str) -> None:
    with pytest.raises(InputError, match=f"range of activation {activation} changes with every batch; use int8:tensor"):
        exported(mixed, f"weight=int8:channel,activation={activation}", X, allow=True)


def test_wider_carriers_are_named(mixed: PostTraining) -> None:
    graph, _, _ = exported(mixed, "weight=int5:channel,activation=int6:tensor", X)
    assert any(note.startswith("5-bit int weights are carried in INT8: stem.0, ") for note in graph.notes)
    assert any(note.startswith("6-bit activations are carried in UINT8: ") for note in graph.notes)
    assert graph.extra == pytest.approx(sum(layer.weights for layer in mixed._layers.values()) * 3 / 8)


def test_an_operator_without_onnx_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0e(self.layer(x))

    model, x = Strange().eval(), torch.rand(2, 4)
    engine = calibrated(model, x)
    with pytest.raises(InputError, match=r"ONNX cannot represent this network: .*i0e.*Use safetensors"):
        exported(engine, "weight=int8:channel", x)
    assert capfd.readouterr().out == "", "torch prints the whole graph"


def test_halves_are_rounded_as_the_simulation_rounds_them() -> None:
    """Images of 17 levels under a scale of 1/255: half of full white lies between 127 and 128."""
    grid = (1 / 255, 0, 0, 255)
    pixels = (np.arange(17) / 16).astype(np.float32)
    wanted = np.rint(pixels * np.float32(255.0))
    assert np.array_equal(np.rint(pixels / divisor(grid)), wanted)
    assert not np.array_equal(np.rint(pixels / np.float32(1 / 255)), wanted), "the nearest float32 rounds 0.5 the other way"


def test_the_network_is_not_touched(mixed: PostTraining) -> None:
    before = copy.deepcopy(mixed.restore().state_dict())
    exported(mixed, "weight=int2:channel", X)
    after = mixed.restore().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
