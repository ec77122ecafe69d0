"""Operators that move values and reduce axes, against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from quant_core.export.litert.program import float_model
from quant_core.util.errors import InputError
from tests.quant_core.export.litert.runs import IMAGES, TOKENS, Of, codes, same

OF_IMAGES = {
    "channels shuffled": nn.ChannelShuffle(2),
    "concatenated": lambda x: torch.cat([x, 2 * x], 1),
    "chunks": lambda x: torch.chunk(x, 2, 1)[1] * torch.chunk(x, 2, 1)[0],
    "split unevenly": lambda x: torch.split(x, [1, 5], 1)[1],
    "strides": lambda x: x[:, 1:4, ::2, -3:],
    "chosen channels": lambda x: x[:, [3, 1, 0]],
    "permuted": lambda x: x.permute(0, 3, 1, 2) * 2,
    "parts": lambda x: x.reshape(x.shape[0], 3, 2, -1),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "zeros around": lambda x: functional.pad(x, (1, 2, 0, 3)),
    "twos around": lambda x: functional.pad(x, (1, 2, 0, 3), value=2.0),
    "reflected": nn.ReflectionPad2d(2),
    "twice as large": nn.Upsample(scale_factor=2),
    "linearly": nn.Upsample(scale_factor=2, mode="bilinear"),
    "corners": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "pixels": nn.PixelShuffle(2),
    "masked": lambda x: x.masked_fill(x < 0.5, -1.0),
    "expanded": lambda x: x[:, :1].expand(-1, 4, -1, -1) + 1,
    "repeated": lambda x: x.repeat(1, 2, 1, 1),
    "means": lambda x: x.mean((2, 3)) + x.sum((2, 3)) + x.amax((2, 3)) + x.amin((2, 3)),
    "mean of channels": lambda x: x.mean(1),
    "largest channel": lambda x: x.argmax(1),
    "length": lambda x: functional.normalize(x, dim=1),
    "softmax over channels": nn.Softmax(1),
    "gated": nn.GLU(1),
}
OF_TOKENS = {
    "one token": lambda x: x[:, 0] + x[:, -1],
    "stacked": lambda x: torch.stack([x, x + 1], 1),
    "sums so far": lambda x: x.cumsum(1),
    "lower part": lambda x: torch.tril(x @ x.transpose(1, 2)),
    "largest": lambda x: x.argmax(-1, keepdim=True),
    "product": lambda x: x.prod(-1),
    "spread": lambda x: x.std(-1),
    "softmax": lambda x: functional.softmax(x, -1) + functional.log_softmax(x, -1),
    "rolled": lambda x: torch.roll(x, 1, 1),
}


def module(of: object) -> nn.Module:
    return of if isinstance(of, nn.Module) else Of(of)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images(name: str) -> None:
    x = torch.rand(4, 8, 3, 5) if name == "pixels" else IMAGES
    same(module(OF_IMAGES[name]), x)


@pytest.mark.parametrize("name", OF_TOKENS)
def test_tokens(name: str) -> None:
    same(module(OF_TOKENS[name]), TOKENS)


def test_a_flattened_mean_needs_no_transposition() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert codes(model, IMAGES) == ["TRANSPOSE", "CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED"]
    same(model, IMAGES)
    same(nn.Sequential(nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4 * 7 * 8, 3)), IMAGES)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda x: x.flip(1), r"a slice runs backwards \(ONNX's Slice\)"),
        (nn.ReplicationPad2d(1), r"it pads by a constant or by reflection, and takes nothing off \(ONNX's Pad\)"),
        (
            nn.Upsample(scale_factor=2, mode="bicubic"),
            r"it resizes rows and columns of images alone, by the nearest or linearly \(ONNX's Resize\)",
        ),
    ],
)
def test_what_litert_lacks_is_one_sentence(of: object, message: str) -> None:
    with pytest.raises(InputError, match=rf"^LiteRT cannot represent this network: (.*{message}).*\. Use onnx or openvino\.$"):
        float_model(module(of), IMAGES)
