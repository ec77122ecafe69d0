"""Rows of codes with positive scales."""

import torch

from quant_core.codecs import Encoded
from quant_core.export.rows import positive_rows


def test_rows_with_negative_scales_change_sign_and_rows_of_zeros_have_a_scale_of_one() -> None:
    codes = torch.tensor([[0, 128, 255], [0, 1, 200], [128, 128, 128]], dtype=torch.uint8)
    rows, scale = positive_rows(Encoded(codes, -128, torch.tensor([[0.5], [-0.25], [0.0]])))
    assert rows.tolist() == [[-128, 0, 127], [127, 127, -72], [0, 0, 0]]
    assert scale.tolist() == [0.5, 0.25, 1.0]


def test_one_scale_is_that_of_all_rows() -> None:
    rows, scale = positive_rows(Encoded(torch.tensor([[1, 2], [3, 0]], dtype=torch.uint8), 0, torch.tensor([[0.5]])))
    assert rows.dtype == torch.int8
    assert scale.tolist() == [0.5, 0.5]
