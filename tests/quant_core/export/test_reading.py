"""A safetensors export read back into the user's own network."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.codecs.quantize import fake_quantize
from quant_core.export.packed_file import save_packed
from quant_core.export.reading import ACTIVATIONS, WEIGHTS, load_quantized
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

X = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution with a batch norm, and a linear layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))


def written(folder: Path, *, folded: bool) -> dict[str, Tensor]:
    """Write an export by hand; return the tensors."""
    rng = torch.Generator().manual_seed(1)
    conv = torch.randn(4, 3, 3, 3, generator=rng)
    plain = {"head.weight": torch.randn(2, 4, generator=rng), "head.bias": torch.tensor([1.0, 2.0])}
    if folded:
        plain["conv.bias"] = torch.arange(4.0)
    else:
        plain |= {f"norm.{name}": torch.rand(4, generator=rng) for name in ("weight", "bias", "running_mean", "running_var")}
    save_packed(folder / WEIGHTS, {"conv.weight": (conv, parse("int4:channel"), 0)}, plain=plain)
    inputs = {"conv": {"spec": "int2:tensor", "grid": [0.25, 0, 0, 3]}, "head": {"spec": "int8:token", "grid": None}}
    (folder / ACTIVATIONS).write_text(json.dumps({"tied": {}, "inputs": inputs}))
    return plain | {"conv.weight": fake_quantize(conv, "int4:channel")}


@pytest.mark.parametrize("folded", [True, False])
def test_weights_biases_and_quantizers_are_put_in_place(tmp_path: Path, folded: bool) -> None:
    tensors, network = written(tmp_path, folded=folded), Net()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network_read = load_quantized(tmp_path, network, X)
    assert all(torch.equal(network_read.state_dict()[name], tensor) for name, tensor in tensors.items())
    images = (X / 0.25).round().clamp(0, 3) * 0.25
    made = nn.functional.conv2d(images, tensors["conv.weight"], tensors.get("conv.bias"))
    if not folded:
        stats = (tensors[f"norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        made = nn.functional.batch_norm(made, *stats)
    pooled = fake_quantize(torch.relu(made).mean(dim=(2, 3)), "int8:token", channel_axis=-1)
    wanted = nn.functional.linear(pooled, tensors["head.weight"], tensors["head.bias"])
    torch.testing.assert_close(network_read(X), wanted)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_files_of_another_network_are_refused(tmp_path: Path) -> None:
    written(tmp_path, folded=True)
    with pytest.raises(InputError, match=r"is of another network: 0.bias, 0.weight, conv.bias"):
        load_quantized(tmp_path, nn.Sequential(nn.Conv2d(3, 4, 3)), X)


@pytest.mark.parametrize("text", ["{", "[]", '{"tied": {}}', '{"tied": {}, "inputs": {"conv": {"spec": "int99:tensor", "grid": null}}}'])
def test_damaged_activations_are_refused(tmp_path: Path, text: str) -> None:
    written(tmp_path, folded=True)
    (tmp_path / ACTIVATIONS).write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*activations.json: .*Give the folder of a safetensors export"):
        load_quantized(tmp_path, Net(), X)
