"""Weights as programs of ExecuTorch hold them: types, bytes, refusals. No executorch is needed."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.export.executorch import storage
from quant_core.export.executorch.program import refusals
from quant_core.export.stored import StoredLayer, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

ROWS = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def stored(module: nn.Module, inputs: Tensor, text: str) -> StoredLayer:
    model = nn.Sequential(module).eval()
    layers = trace(model, inputs)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return post_training(PostTraining(model, layers, [inputs], inputs), model, layers, policy, inputs).stored[0]


@pytest.mark.parametrize(
    ("text", "kind", "payload"),
    [
        ("weight=int8:channel", "qcint8", 64 * 6 + 24),
        ("weight=int5:tensor", "qcint8", 64 * 6 + 24),
        ("weight=int4:channel", "qcint4", 32 * 6 + 24),
        ("weight=int2:channel", "qcint4", 32 * 6 + 24),
        ("weight=int4:group32:e8m0", "qbint4", 32 * 6 + 24),
    ],
)
def test_rows_of_linear_layers_have_codes_of_four_or_eight_bits(text: str, kind: str, payload: int) -> None:
    layer = stored(nn.Linear(64, 6), ROWS, text)
    weight = storage.stored_weight(layer)
    assert (weight.kind, storage.code_type(layer), weight.payload) == (kind, kind, payload)
    scale = weight.scale.reshape(6, -1).repeat_interleave(64 // weight.scale.reshape(6, -1).shape[1], dim=1)
    assert torch.equal(weight.codes * scale, layer.weight)


def test_bytes_beyond_the_formats_are_counted() -> None:
    assert storage.stored_weight(stored(nn.Linear(64, 6), ROWS, "weight=int4:channel")).extra == 0
    assert storage.stored_weight(stored(nn.Linear(64, 6), ROWS, "weight=int3:channel")).extra == 64 * 6 / 8


def test_four_bits_lie_two_in_a_byte_the_first_one_low() -> None:
    layer = stored(nn.Linear(64, 6), ROWS, "weight=int4:channel")
    packed = np.frombuffer(storage.packed_codes(layer), np.uint8)
    codes = storage.stored_weight(layer).codes.reshape(-1).numpy()
    assert (packed & 15).astype(int).tolist() == (codes[::2] + 8).tolist()
    assert (packed >> 4).astype(int).tolist() == (codes[1::2] + 8).tolist()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 4, 3), (4, 3, 3, 3)),
        (nn.Conv2d(3, 6, 2, groups=3), (1, 2, 2, 6)),
        (nn.ConvTranspose2d(3, 4, 2), (4, 2, 2, 3)),
    ],
)
def test_convolutions_have_their_channels_last_in_eight_bits(module: nn.Module, shape: tuple[int, ...]) -> None:
    layer = stored(module, IMAGES, "weight=int4:channel")
    weight = storage.stored_weight(layer)
    assert weight.kind == "qcint8"
    assert weight.codes.shape == layer.layer.weight_shape
    packed = np.frombuffer(storage.packed_codes(layer), np.int8).reshape(shape)
    axis = layer.layer.channel_axis
    along = weight.codes.movedim(axis, 0).reshape(len(weight.scale), -1)
    values = (along * weight.scale[:, None]).reshape(weight.codes.movedim(axis, 0).shape).movedim(0, axis)
    assert torch.equal(values, layer.weight)
    plain = np.frombuffer(storage.float_bytes(layer), np.float32).reshape(shape)
    assert ((plain != 0) == (packed != 0)).all()
    assert (np.sign(plain) == np.sign(packed)).all()


def test_a_row_of_zeros_has_a_scale_that_xnnpack_takes_and_a_negative_scale_changes_sign() -> None:
    module = nn.Linear(64, 6)
    with torch.no_grad():
        module.weight[2] = 0.0
    layer = stored(module, ROWS, "weight=int8:channel")
    assert float(storage.stored_weight(layer).scale.min()) > 1e-6
    assert layer.encoded is not None
    assert layer.encoded.scale is not None
    wanted = storage.stored_weight(layer)
    layer.encoded.scale.neg_()
    flipped = storage.stored_weight(layer)
    assert torch.equal(flipped.codes, -wanted.codes)
    assert torch.equal(flipped.scale, wanted.scale)


LINEAR, CONV, GRAY = (nn.Linear(64, 6), ROWS), (nn.Conv2d(3, 4, 3), IMAGES), (nn.Conv2d(1, 4, 3), IMAGES[:, :1])
DEPTHWISE, LINE = (nn.Conv2d(3, 3, 3, groups=3), IMAGES), (nn.Conv1d(3, 4, 3), IMAGES[:, :, 0])
VOLUME = (nn.Conv3d(3, 4, 2), IMAGES[:, :, None].repeat(1, 1, 2, 1, 1))
EMBEDDING = (nn.Embedding(20, 16), torch.tensor([[1, 2]]))
REFUSED = [
    (LINEAR, "weight=kmeans4:tensor", r"ExecuTorch reads no kmeans4:tensor; use int8:channel, or int4:channel or int4:group32:e8m0"),
    (LINEAR, "weight=mxfp4", "ExecuTorch reads no mxfp4; use int8:channel"),
    (LINEAR, "weight=ternary:twn", "ExecuTorch reads no ternary:twn; use"),
    (LINEAR, "weight=int4:channel:affine", "ExecuTorch reads no int4:channel:affine; use"),
    (LINEAR, "weight=int12:channel", "ExecuTorch reads no int12:channel; use"),
    (LINEAR, "weight=int4:vector16", "ExecuTorch reads no int4:vector16; use"),
    (LINEAR, "weight=int8:group32", "XNNPACK's groups have 4 bits, not 8; use int4:group32:e8m0 or int8:channel"),
    (LINEAR, "weight=int4:group16", "groups are a multiple of 32 that divides the row, here of 64; use int4:channel"),
    (LINEAR, "weight=int4:group48", "groups are a multiple of 32 that divides the row, here of 64; use int4:channel"),
    (
        LINEAR,
        "weight=int4:group32",
        "stores the scales of groups in bfloat16; use int4:group32:e8m0, whose scales stay as they are, or --round",
    ),
    (
        CONV,
        "weight=int4:group3:e8m0,activation=int8:tensor",
        "no convolution with several scales per channel, as in int4:group3:e8m0; use int8",
    ),
    (VOLUME, "weight=int8:channel,activation=int8:tensor", "XNNPACK has convolutions of one and two axes, and transposed ones"),
    (DEPTHWISE, "weight=int8:channel", "only between two quantizers to 8 bits: quantize its input and that of the layer that reads it"),
    (GRAY, "weight=int8:channel", "only between two quantizers to 8 bits"),
    (LINE, "weight=int8:channel", "only between two quantizers to 8 bits"),
    (
        LINEAR,
        "weight=int8:channel,activation=int12:tensor",
        "ExecuTorch has no kernel for activation int12:tensor; use int8:tensor, or int8:token",
    ),
    (LINEAR, "weight=int8:channel,activation=mx9", "ExecuTorch has no kernel for activation mx9; use int8:tensor"),
    (LINEAR, "weight=int8:channel,activation=int4:token", "from what it runs for 8 bits and packed weights alone; use int4:tensor"),
    (LINEAR, "weight=float,activation=int8:token", "from what it runs for 8 bits and packed weights alone; use int8:tensor"),
    (DEPTHWISE, "weight=int8:channel,activation=int8:tensor:dynamic", "from what it runs for 8 bits and packed weights alone"),
    (CONV, "weight=int8:channel,activation=int8:token", "from what it runs for 8 bits and packed weights alone; use int8:tensor"),
    (EMBEDDING, "weight=int4:group5", "rows of 16 are no multiple of 5; use intN:channel"),
]


@pytest.mark.parametrize(("module", "text", "message"), REFUSED)
def test_what_a_program_cannot_hold_is_one_sentence(module: tuple[nn.Module, Tensor], text: str, message: str) -> None:
    (layer,) = trace(nn.Sequential(module[0]).eval(), module[1])
    (fault,) = refusals(layer, parse_layer_policy(text))
    assert message in fault
    assert fault.count(". ") == 0


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (LINEAR, "weight=int3:channel,activation=int8:token"),
        (CONV, "weight=int8:channel,activation=int8:tensor:dynamic"),
        (CONV, "weight=int2:tensor,activation=int3:tensor"),
        (DEPTHWISE, "weight=int8:channel,activation=int8:tensor"),
        (EMBEDDING, "weight=int4:group4"),
        (DEPTHWISE, "weight=float"),
    ],
)
def test_what_it_holds_is_not_refused(module: tuple[nn.Module, Tensor], text: str) -> None:
    (layer,) = trace(nn.Sequential(module[0]).eval(), module[1])
    assert refusals(layer, parse_layer_policy(text)) == []
    rounded = parse_layer_policy("weight=int4:group32")
    assert refusals(trace(nn.Sequential(LINEAR[0]).eval(), ROWS)[0], rounded, rounded=True) == []
