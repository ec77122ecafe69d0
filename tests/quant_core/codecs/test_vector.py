"""VSQuant against a slow float64 reference, and what two levels of scales promise."""

import numpy as np
import pytest
import torch

from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.spec.quant_spec import QuantSpec, parse


def reference(rows: np.ndarray, spec: QuantSpec) -> np.ndarray:
    """MLSys 2021, section 4.4, requantized with the integer scale; the stored float scale and the products are float32."""
    out = np.zeros(rows.shape, dtype=np.float64)
    high, levels, v = max(1, 2 ** (spec.bits - 1) - 1), 2 ** int(spec.scale[1:]) - 1, spec.block
    fine = [[np.float32(np.abs(row[s : s + v]).max() / np.float32(high)) for s in range(0, len(row), v)] for row in rows]
    tensor_top = max(max(row) for row in fine)
    for r, row in enumerate(rows):
        top = max(fine[r]) if spec.coarse == "channel" else tensor_top
        gamma = np.float32(top / np.float32(levels)) if top else np.float32(1.0)
        for b, scale in enumerate(fine[r]):
            integer = min(max(round(float(np.float32(scale / gamma))), 1), levels)
            step = np.float32(np.float32(integer) * gamma)
            for j in range(b * v, min(len(row), (b + 1) * v)):
                q = round(float(np.float32(row[j] * np.float32(np.float32(1.0) / step))))
                out[r, j] = np.float32(min(max(q, -(2 ** (spec.bits - 1))), 2 ** (spec.bits - 1) - 1)) * step
    return out.astype(np.float32)


@pytest.mark.parametrize(
    "text", ["int4:vector16", "int4:vector16:tensor", "int3:vector8:s6", "int8:vector16:s8", "int1:vector4", "int6:vector64"]
)
def test_values_are_those_of_the_reference(text: str) -> None:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(12, 75, generator=generator) * torch.rand(12, 1, generator=generator)
    x[3] = 0.0
    x[4, :16] *= 100.0
    assert np.array_equal(fake_quantize(x, text).numpy(), reference(x.numpy(), parse(text)))


def test_two_levels_cost_little_against_float_scales_and_beat_one_scale_per_channel() -> None:
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(9))

    def decibels(text: str) -> float:
        return float(10 * torch.log10((x**2).sum() / ((x - fake_quantize(x, text)) ** 2).sum()))

    assert decibels("int4:group16:fp32") == pytest.approx(21.39, abs=0.1)
    assert decibels("int4:vector16") == pytest.approx(21.22, abs=0.1)
    assert decibels("int4:vector16:s6") == pytest.approx(21.38, abs=0.1)
    assert decibels("int4:channel") == pytest.approx(16.90, abs=0.2)


def test_an_outlier_does_not_erase_its_neighbours() -> None:
    x = torch.full((1, 64), 0.01)
    x[0, 0] = 30.0
    encoded = encode(x, "int4:vector16:s4")
    assert encoded.scale is not None
    assert encoded.scale.tolist() == [[15.0, 1.0, 1.0, 1.0]]
