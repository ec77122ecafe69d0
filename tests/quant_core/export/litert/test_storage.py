"""Weights as files of LiteRT hold them: types, bytes, refusals. No ai-edge-litert is needed."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.export.litert import storage
from quant_core.export.litert.program import refusals
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from tests.quant_core.export.litert.runs import quantized

ROWS = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2]])


def stored(module: nn.Module, x: Tensor, text: str) -> storage.StoredWeight:
    (layer,) = quantized(nn.Sequential(module), x, text).stored
    weight = storage.stored_weight(layer)
    along = [1] * weight.codes.ndim
    along[weight.axis] = -1
    values = weight.codes * weight.scale.reshape(along)
    wanted = layer.weight.numpy().transpose(weight.order)
    assert np.array_equal(values.reshape(wanted.shape), wanted), "the same weights, bit for bit"
    return weight


@pytest.mark.parametrize(
    ("text", "kind", "payload", "extra"),
    [
        ("weight=int8:channel", "INT8", 64 * 6 + 24, 0),
        ("weight=int5:tensor", "INT8", 64 * 6 + 24, 64 * 6 * 3 / 8 + 20),
        ("weight=int4:channel", "INT4", 32 * 6 + 24, 0),
        ("weight=int3:channel", "INT4", 32 * 6 + 24, 64 * 6 / 8),
        ("weight=int2:channel", "INT2", 16 * 6 + 24, 0),
        ("weight=int4:group64:fp32", "INT4", 32 * 6 + 24, 0),
    ],
)
def test_rows_of_linear_layers_have_codes_of_two_four_or_eight_bits(text: str, kind: str, payload: int, extra: float) -> None:
    weight = stored(nn.Linear(64, 6), ROWS, text)
    assert (weight.kind, weight.payload, weight.extra) == (kind, payload, extra)


def test_several_codes_lie_in_a_byte_the_first_one_low() -> None:
    four, two = (stored(nn.Linear(64, 6), ROWS, f"weight=int{bits}:channel") for bits in (4, 2))
    flat = four.codes.reshape(-1).astype(int)
    assert (four.data & 15).tolist() == (flat[::2] & 15).tolist()
    assert (four.data >> 4).tolist() == (flat[1::2] & 15).tolist()
    assert (two.data >> 4 & 3).tolist() == (two.codes.reshape(-1).astype(int)[2::4] & 3).tolist()


@pytest.mark.parametrize(
    ("module", "x", "shape", "axis"),
    [
        (nn.Conv2d(3, 4, 3), IMAGES, (4, 3, 3, 3), 0),
        (nn.Conv2d(3, 6, 2, groups=3), IMAGES, (1, 2, 2, 6), 3),
        (nn.ConvTranspose2d(3, 4, 2), IMAGES, (4, 2, 2, 3), 0),
        (nn.Conv1d(3, 4, 2), IMAGES[:, :, 0], (4, 1, 2, 3), 0),
        (nn.Conv1d(3, 3, 2, groups=3), IMAGES[:, :, 0], (1, 1, 2, 3), 3),
        (nn.Linear(7, 3), ROWS[:, :7], (3, 7), 0),
        (nn.Embedding(20, 16), TOKENS, (20, 16), 0),
    ],
)
@pytest.mark.parametrize("bits", [2, 4])
def test_convolutions_have_their_channels_last_in_eight_bits_and_odd_rows_too(
    module: nn.Module, x: Tensor, shape: tuple[int, ...], axis: int, bits: int
) -> None:
    weight = stored(module, x, f"weight=int{bits}:channel")
    assert (weight.codes.shape, weight.axis) == (shape, axis)
    assert weight.kind == ("INT4" if isinstance(module, nn.Embedding) else "INT8")


def test_codes_below_eight_bits_of_layers_with_quantized_inputs_fill_seven() -> None:
    weight = stored(nn.Conv2d(3, 4, 3), IMAGES, "weight=int4:channel,activation=int8:tensor")
    assert (weight.codes % 8 == 0).all()
    assert np.abs(weight.codes).max() > 7


CONV, LINEAR, VOLUME = (
    (nn.Conv2d(3, 4, 3), IMAGES),
    (nn.Linear(64, 6), ROWS),
    (nn.Conv3d(3, 4, 2), IMAGES[:, :, None].repeat(1, 1, 2, 1, 1)),
)
REFUSED = [
    (LINEAR, "weight=kmeans4:tensor", "LiteRT reads no kmeans4:tensor; use int8:channel, or int4:channel in linear layers"),
    (LINEAR, "weight=mxfp4", "LiteRT reads no mxfp4; use int8:channel"),
    (LINEAR, "weight=int4:channel:affine", "LiteRT reads no int4:channel:affine; use"),
    (LINEAR, "weight=int12:channel", "LiteRT reads no int12:channel; use"),
    (LINEAR, "weight=int4:group32", "LiteRT reads no int4:group32; use int8:channel, or int4:channel"),
    (CONV, "weight=int4:vector16", "LiteRT reads no int4:vector16; use"),
    (CONV, "weight=ternary:twn", "LiteRT reads no ternary:twn; use"),
    (VOLUME, "weight=int8:channel", "LiteRT has convolutions of codes over one and two axes, not over 3; keep it in float"),
    (
        LINEAR,
        "weight=int8:channel,activation=int12:tensor",
        "LiteRT has no kernel for activation int12:tensor; use int8:tensor, or int8:token",
    ),
    (LINEAR, "weight=int8:channel,activation=mx9", "LiteRT has no kernel for activation mx9; use int8:tensor"),
    (
        LINEAR,
        "weight=float,activation=int8:token",
        "has no kernel for activation int8:token; use int8:tensor, or int8:token before quantized",
    ),
    (CONV, "weight=int8:channel,activation=int8:token", "LiteRT has no kernel for activation int8:token; use int8:tensor"),
    (
        CONV,
        "weight=int8:channel,activation=int8:tensor:dynamic",
        "LiteRT has no kernel for activation int8:tensor:dynamic; use int8:tensor",
    ),
]


@pytest.mark.parametrize(("module", "text", "message"), REFUSED)
def test_what_a_file_cannot_hold_is_one_sentence(module: tuple[nn.Module, Tensor], text: str, message: str) -> None:
    (layer,) = trace(nn.Sequential(module[0]).eval(), module[1])
    (fault,) = refusals(layer, parse_layer_policy(text))
    assert message in fault
    assert fault.count(". ") == 0


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (LINEAR, "weight=int3:channel,activation=int8:token"),
        (LINEAR, "weight=int2:group64:fp32"),
        (CONV, "weight=int2:tensor,activation=int3:tensor:affine"),
        (CONV, "weight=int2:channel"),
        (VOLUME, "weight=float"),
    ],
)
def test_what_it_holds_is_not_refused(module: tuple[nn.Module, Tensor], text: str) -> None:
    (layer,) = trace(nn.Sequential(module[0]).eval(), module[1])
    assert refusals(layer, parse_layer_policy(text)) == []
