"""Pools and the pads of windows, against torch."""

import pytest
from torch import nn
from torch.nn import functional

from quant_core.export.litert.program import float_model
from quant_core.export.litert.windows import Window
from quant_core.util.errors import InputError
from tests.quant_core.export.litert.runs import IMAGES, LINES, Of, same

POOLS = (
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2, 2, ceil_mode=True),
    nn.AvgPool2d(2),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d(2, 2, ceil_mode=True),
    nn.AvgPool2d(4, 1, 2),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((3, 5)),
    nn.AdaptiveMaxPool2d(1),
)


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_pools_of_images(pool: nn.Module) -> None:
    same(pool, IMAGES)


@pytest.mark.parametrize("pool", [nn.AvgPool1d(3, 2, 1), nn.MaxPool1d(3, 2, 1)], ids=repr)
def test_pools_of_lines(pool: nn.Module) -> None:
    same(pool, LINES)


def test_pads_are_less_than_every_value() -> None:
    same(Of(lambda x: functional.max_pool2d(x - 5, 3, 2, 1)), IMAGES)


@pytest.mark.parametrize(
    ("kernel", "stride", "begin", "size", "out", "padding", "pads"),
    [
        (3, 1, 1, 8, 8, "SAME", [(1, 1)]),
        (3, 2, 1, 8, 4, "", [(1, 0)]),
        (3, 2, 0, 8, 4, "SAME", [(0, 1)]),
        (3, 2, 0, 8, 3, "VALID", [(0, 0)]),
        (2, 2, 0, 9, 5, "SAME", [(0, 1)]),
        (1, 2, 0, 8, 4, "VALID", [(0, 0)]),
    ],
)
def test_a_window_is_padded_by_litert_where_its_rule_is_the_same(
    kernel: int, stride: int, begin: int, size: int, out: int, padding: str, pads: list[tuple[int, int]]
) -> None:
    window = Window((kernel,), (stride,), (1,), (begin,))
    assert window.padding([size], [out]) == padding
    assert window.pads([size], [out]) == pads


def test_pools_that_litert_lacks_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"its pools have no dilation and give no places \(ONNX's MaxPool\)\. Use onnx or openvino\.$"):
        float_model(nn.MaxPool2d(2, dilation=2), IMAGES)
