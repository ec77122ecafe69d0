"""The networks: sizes as published or stated, reference weights and checkpoints loaded right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.trace import trace
from quant_core.util.errors import InputError
from search.tasks.networks import NETWORKS, build_network
from search.tasks.networks.checkpoint import load_checkpoint
from search.tasks.networks.digits import DigitsNet
from search.tasks.networks.keras import KerasGraph, pad_same
from search.tasks.networks.mlperf_tiny import REFERENCES, mlperf_tiny

# (weights, output pixels) of every layer, written down by hand; MACs are the sum of the products.
RESNET8 = [(144, 784), (2304, 784), (2304, 784), (4608, 196), (9216, 196), (512, 196), (18432, 49), (36864, 49), (2048, 49), (640, 1)]
RESNET20 = [(144, 784), *[(2304, 784)] * 6, (4608, 196), *[(9216, 196)] * 5, (18432, 49), *[(36864, 49)] * 5, (640, 1)]
DSCNN = [(1600, 196), (576, 196), (4096, 196), (576, 49), (4096, 49), *[(576, 49), (4096, 49)] * 2, (640, 1)]
MOBILENETV2 = [(144, 196), (144, 196), (256, 196)]  # stem; block without expansion
MOBILENETV2 += [(1024, 196), (576, 49), (1536, 49), (2304, 49), (864, 49), (2304, 49), (2304, 49), (864, 49), (3840, 49)]
MOBILENETV2 += [(6400, 49), (1440, 49), (6400, 49)] * 2 + [(6400, 49), (1600, 1)]


@pytest.mark.parametrize(
    ("name", "layers", "depthwise", "stated"),
    [
        ("resnet8", RESNET8, 0, 77_072),
        ("mobilenetv2", MOBILENETV2, 6, 52_640),
        ("dscnn", DSCNN, 4, 20_928),
        ("resnet20", RESNET20, 0, 268_048),
    ],
)
def test_trained_networks_are_those_of_their_tables(name: str, layers: list[tuple[int, int]], depthwise: int, stated: int) -> None:
    traced = trace(build_network(name, 1, 10).eval(), torch.zeros(2, 1, 28, 28))
    assert sorted((layer.weights, layer.macs) for layer in traced) == sorted((count, count * pixels) for count, pixels in layers)
    assert sum(layer.weights for layer in traced) == stated
    assert [layer.kind for layer in traced].count("depthwise") == depthwise


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "classes", "side"), [(1, 2, 28), (3, 10, 32)])
def test_trained_networks_map_images_to_logits(name: str, channels: int, classes: int, side: int) -> None:
    network = build_network(name, channels, classes)
    logits = network(torch.rand(4, channels, side, side))
    assert logits.shape == (4, classes)
    logits.sum().backward()
    assert all(parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters())


def test_digits_net_keeps_its_residual() -> None:
    network = DigitsNet().eval()
    x = torch.rand(2, 1, 8, 8)
    before = network(x)
    nn.init.zeros_(network.pointwise2[1].weight)  # the branch's batch norm: what is left is the shortcut
    assert not torch.allclose(network(x), before)
    assert float(network(x).detach().std()) > 0


def test_resnet20_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in build_network("resnet20", 3, 10).parameters()) == 269_722


def test_resnet20_checkpoint_loads_and_its_batch_norms_fit(shared_data: Path) -> None:
    network = load_checkpoint(build_network("resnet20", 3, 10), shared_data / "resnet20_cifar10" / "resnet20-12fca82f.th")
    assert not network.training
    means: list[float] = []
    network.layer3[2].register_forward_hook(lambda _m, _i, out: means.append(float(out.detach().mean())))  # type: ignore[index, union-attr]
    logits = network(torch.randn(64, 3, 32, 32))
    assert logits.shape == (64, 10)
    assert bool(torch.isfinite(logits).all())
    assert 0.01 < means[0] < 10, "activations of a trained network stay of order one"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1, 2], "holds no state dict"),
        ({"state_dict": {"conv1.weight": 3}}, "holds no state dict"),
        ({"conv1.weight": torch.zeros(1)}, "is not of this network, a ResNet20"),
        (b"no file of torch", "cannot be read as a file of tensors"),
    ],
)
def test_bad_checkpoints_are_refused(tmp_path: Path, held: object, message: str) -> None:
    path = tmp_path / "net.th"
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        torch.save(held, path)
    with pytest.raises(InputError, match=message):
        load_checkpoint(build_network("resnet20", 3, 10), path)
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(build_network("resnet20", 3, 10), tmp_path / "absent.th")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("owned",)


def test_checkpoint_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "net.th")
    with pytest.raises(InputError, match="cannot be read as a file of tensors"):
        load_checkpoint(build_network("resnet20", 3, 10), tmp_path / "net.th")
    assert "owned" not in capsys.readouterr().out


# Published: parameters as Keras counts them (MLPerf Tiny reference models), MACs of arXiv:2106.07597 and of the plans in STACK.md.
@pytest.mark.parametrize(
    ("name", "trainable", "macs", "outputs"),
    [
        ("resnet8", 78_186, 12_501_632, 10),
        ("mobilenet", 216_322, 7_489_664, 2),
        ("autoencoder", 267_928, 264_192, 640),
        ("dscnn", 23_756, 2_656_768, 12),
    ],
)
def test_mlperf_tiny_networks_load_and_run(shared_data: Path, name: str, trainable: int, macs: int, outputs: int) -> None:
    network = mlperf_tiny(name, shared_data / "mlperf_tiny")
    inputs = torch.rand(3, *REFERENCES[name].shape)
    with torch.no_grad():
        out = network(inputs)
    assert out.shape == (3, outputs)
    assert bool(torch.isfinite(out).all())
    assert sum(p.numel() for p in network.parameters()) == trainable
    statistics = sum(b.numel() for b in network.buffers() if b.dim())
    assert trainable + statistics == REFERENCES[name].numbers
    assert sum(layer.macs for layer in trace(network, inputs)) == macs


def test_resnet8_of_mlperf_tiny_equals_its_formula(shared_data: Path) -> None:
    """An independent forward pass, written out from the reference's keras_model.py."""
    folder = shared_data / "mlperf_tiny"
    with np.load(folder / "pretrainedResnet.npz") as file:
        w = {name: torch.from_numpy(file[name]).double() for name in file.files}

    def conv(x: Tensor, n: str, stride: int) -> Tensor:
        kernel = w[f"conv2d{n}.kernel"]
        if stride == 2 and kernel.shape[2] == 3:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel, w[f"conv2d{n}.bias"], 2)
        return F.conv2d(x, kernel, w[f"conv2d{n}.bias"], stride, kernel.shape[2] // 2)

    def norm(x: Tensor, n: str) -> Tensor:
        mean, variance, gamma, beta = (w[f"batch_normalization{n}.{f}"] for f in ("moving_mean", "moving_variance", "gamma", "beta"))
        scale = gamma / (variance + 1e-3).sqrt()
        return x * scale.view(-1, 1, 1) + (beta - mean * scale).view(-1, 1, 1)

    x = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 255
    a = norm(conv(x, "", 1), "").relu()
    a = (a + norm(conv(norm(conv(a, "_1", 1), "_1").relu(), "_2", 1), "_2")).relu()
    a = (conv(a, "_5", 2) + norm(conv(norm(conv(a, "_3", 2), "_3").relu(), "_4", 1), "_4")).relu()
    a = (conv(a, "_8", 2) + norm(conv(norm(conv(a, "_6", 2), "_5").relu(), "_7", 1), "_6")).relu()
    expected = a.mean(dim=(2, 3)) @ w["dense.kernel"].T + w["dense.bias"]
    with torch.no_grad():
        found = mlperf_tiny("resnet8", folder).double()(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_damaged_reference_files_are_refused(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "mlperf_tiny" / "ad01.npz").read_bytes()
    graph = (shared_data / "mlperf_tiny" / "ad01.json").read_text()
    (tmp_path / "ad01.npz").write_bytes(whole)
    (tmp_path / "ad01.json").write_text(graph[:-20])
    with pytest.raises(InputError, match="give no autoencoder"):
        mlperf_tiny("autoencoder", tmp_path)
    (tmp_path / "ad01.json").write_text(graph)
    (tmp_path / "ad01.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="give no autoencoder"):
        mlperf_tiny("autoencoder", tmp_path)
    np.savez(tmp_path / "ad01.npz", **{"dense.kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(InputError, match="holds 4 numbers, expected 269992 for autoencoder"):
        mlperf_tiny("autoencoder", tmp_path)
    with pytest.raises(InputError, match="unknown MLPerf Tiny network 'vgg'; known: autoencoder, dscnn, mobilenet, resnet8"):
        mlperf_tiny("vgg", tmp_path)


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
