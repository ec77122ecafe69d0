"""NVFP4 against torchao (where its eps does not differ) and a float64 reference."""

import math
import warnings

import numpy as np
import pytest
import torch

from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.util.errors import InputError


def nearest(value: float, mantissa: int, emin: int, largest: float) -> float:
    exponent = max(math.frexp(value)[1] - 1 if value else -1000, emin)
    step = 2.0 ** (exponent - mantissa)
    return min(round(value / step) * step, largest)


def reference(rows: np.ndarray) -> np.ndarray:
    g = np.float32(np.float32(np.abs(rows).max()) / np.float32(2688.0))
    out = np.zeros_like(rows)
    for r, row in enumerate(rows):
        for start in range(0, len(row), 16):
            block = row[start : start + 16]
            wanted = np.float32(np.abs(block).max() / np.float32(np.float32(6.0) * g))
            scale = nearest(min(max(float(wanted), 2.0**-9), 448.0), 3, -6, 448.0) if np.abs(block).max() else 1.0
            product = np.float32(np.float32(scale) * g)
            for i, value in enumerate(block):
                code = nearest(abs(float(np.float32(value / product))), 1, 0, 6.0)
                out[r, start + i] = math.copysign(np.float32(np.float32(code) * product), value)
    return out


def spread_out(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(24, 75, generator=generator) * 2.0 ** torch.randint(-9, 3, (24, 75), generator=generator).float()


def test_values_are_those_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(4)
    for x in (torch.randn(24, 75, generator=generator), spread_out(generator)):
        x[3, 16:32] = 0.0
        wanted = torch.from_numpy(reference(x.numpy()))
        assert torch.equal(fake_quantize(x, "nvfp4").view(torch.int32), wanted.view(torch.int32))


def test_values_are_those_of_torchao_bit_for_bit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao", reason="torchao is no dependency; pip install torchao==0.18.0 to run this")
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(4))
    theirs = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=per_tensor_amax_to_scale(x.abs().max())).dequantize(torch.float32)
    assert torch.equal(fake_quantize(x, "nvfp4"), theirs)


def test_values_are_those_of_modelopt() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "modelopt.torch.quantization.qtensor.nvfp4_tensor"
        modelopt = pytest.importorskip(name, reason="modelopt is no dependency; pip install nvidia-modelopt==0.47.0 to run this")
    generator = torch.Generator().manual_seed(4)
    bits = torch.randint(-(2**31), 2**31 - 1, (64, 128), generator=generator).to(torch.int32).view(torch.float32).nan_to_num(1.0, 1.0, 1.0)
    below = torch.nextafter(2.0 ** torch.randint(-20, 20, (64, 128), generator=generator).float(), torch.zeros(()))
    for x in (torch.randn(64, 128, generator=generator), spread_out(generator)[:, :64].contiguous(), bits, below):
        stored, fine, coarse = modelopt.NVFP4QTensor.quantize(x.clone(), 16)  # it writes to its input
        theirs = stored.dequantize(torch.float32, scale=fine, double_scale=coarse, block_sizes={-1: 16})
        assert torch.equal(fake_quantize(x, "nvfp4"), theirs)


def test_bounds_set_the_tensor_scale() -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    coarse = encode(x, "nvfp4", bounds=(torch.tensor(-10.0), torch.tensor(5.0))).coarse
    assert coarse is not None
    assert float(coarse) == pytest.approx(10 / 2688)
    with pytest.raises(InputError, match="one tensor scale"):
        fake_quantize(x, "nvfp4", bounds=(torch.zeros(2), torch.ones(2)))


def test_small_blocks_keep_the_smallest_scale() -> None:
    x = torch.cat([torch.full((1, 16), 2688.0), torch.full((1, 16), 0.001), torch.zeros(1, 16)], dim=1)
    scale = encode(x, "nvfp4").scale
    assert scale is not None
    assert scale.tolist() == [[448.0, 2.0**-9, 1.0]]
