"""The reference networks of MLPerf Tiny."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from quant_core.network.trace import trace
from quant_core.util.errors import InputError
from search.tasks.networks.mlperf_tiny import REFERENCES, mlperf_tiny


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
        outputs = mlperf_tiny("resnet8", folder).double()(x)
    torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)


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
