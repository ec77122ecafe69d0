"""The C header: integers that hold every bias, and names that C takes, whatever the layers are called."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.export.c_array import CLayer, c_layers, header
from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy


def quantized(model: nn.Module, x: Tensor, text: str = "weight=int8:channel,activation=int8:tensor") -> Quantized:
    """Return a network under one policy for all layers."""
    layers = trace(model.eval(), x)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return post_training(PostTraining(model, layers, [x], x), model, layers, policy, x)


def bias_steps(layer: CLayer) -> np.ndarray:
    """Return the value of one step of every bias."""
    assert layer.stored.grid is not None
    return layer.stored.grid[0] * np.broadcast_to(layer.scales, layer.bias.shape).astype(np.float64) / 2.0**layer.shift


@pytest.mark.parametrize("text", ["weight=int8:channel,activation=int8:tensor", "weight=int2:channel,activation=int2:tensor"])
@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_bias_of_a_channel_of_tiny_weights_is_held(kind: str, tiny: float, text: str) -> None:
    """5 was stored as 0.023; the bits that its neighbours' biases have are kept too."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4) if kind == "linear" else nn.Conv2d(8, 4, 1)
    with torch.no_grad():
        layer.weight[1] *= tiny
        assert layer.bias is not None
        layer.bias[1] = 5.0
    x = torch.rand(32, 8) if kind == "linear" else torch.rand(32, 8, 1, 1)
    (held,) = c_layers(quantized(nn.Sequential(layer), x, text))
    stored = held.stored
    assert stored.bias is not None
    assert stored.grid is not None
    np.testing.assert_allclose(held.bias * bias_steps(held), stored.bias.double().numpy(), atol=0.01 * 0.35, rtol=1e-4)
    scale, zero_point, low, high = stored.grid
    weight = held.integers.reshape(4, 8) * held.scales[:, None].astype(np.float64)
    moved = np.abs(weight - stored.weight.reshape(4, 8).double().numpy()).sum(axis=1) * scale * max(high - zero_point, zero_point - low)
    assert moved.max() <= 0.01 * 5
    worst = (np.abs(held.integers).reshape(4, 8).sum(axis=1) * max(high - zero_point, zero_point - low)) << held.shift
    assert (worst + np.abs(held.bias)).max() < 2**31


def test_one_scale_per_tensor_becomes_one_per_channel_where_a_bias_needs_it() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight *= 1e-9
        layer.bias[1] = 5.0
    (held,) = c_layers(quantized(nn.Sequential(layer), torch.rand(32, 8), "weight=int8:tensor,activation=int8:tensor"))
    assert held.scales.shape == (4,)
    assert held.stored.bias is not None
    np.testing.assert_allclose(held.bias * bias_steps(held), held.stored.bias.numpy(), rtol=1e-4)


NAMES = ("block_0", "block_0_2", "block-0", 'he"ad', "back\\n", "line\nbreak", "größe", "int", "??/", "*/", "0", "層", "\\")


class Named(nn.Module):
    """Linear layers under the given names, and one of the dotted name `block.0`."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6))
        self.heads = names
        for name in names:
            self._modules[name] = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.block(x))
        for name in self.heads:
            x = self._modules[name](x)  # type: ignore[misc]
        return x


def test_any_names_of_layers_compile_and_stay_apart(tmp_path: Path) -> None:
    """The program prints the names of the table in hexadecimal, and the first weight of every layer."""
    torch.manual_seed(0)
    layers = c_layers(quantized(Named(NAMES), torch.rand(16, 6)))
    (tmp_path / "bitfront_model.h").write_text(header(layers, 'A title */ of \n "any" /* kind ??/ größe \\'), encoding="ascii")
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "bitfront_model.h"\nint main(void) {\n    for (int i = 0; i < BITFRONT_LAYERS; i++) {\n'
        '        for (const char *c = bitfront_layers[i].name; *c; c++) printf("%02x", (unsigned char)*c);\n'
        '        printf(" %d\\n", (int8_t)bitfront_layers[i].weights[0]);\n    }\n    return 0;\n}\n'
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, str(tmp_path / "main.c"), "-o", str(tmp_path / "main")], check=True)
    lines = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [bytes.fromhex(line.split()[0]).decode() for line in lines] == ["block.0", *NAMES]
    assert [int(line.split()[1]) for line in lines] == [int(layer.integers.flat[0]) for layer in layers]


def test_names_that_c_takes_are_kept() -> None:
    torch.manual_seed(0)
    text = header(c_layers(quantized(Named(("block_0", "block-0")), torch.rand(16, 6))), "A test.")
    for name in ("block_0", "block_0_2", "block_0_3"):
        assert text.count(f" bitfront_{name}_weights[]") == 1
    with_dots = header(c_layers(quantized(nn.Sequential(nn.Linear(6, 6)), torch.rand(16, 6))), "A test.")
    assert " bitfront_0_bias[]" in with_dots
