"""Rows of codes whose scales are positive, as integer kernels take them."""

import torch
from torch import Tensor

from quant_core.codecs import Encoded


def positive_rows(encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Return int8 codes [rows, columns] and one scale above zero per row.

    Rows whose scale is negative (a folded batch norm's) change sign; a row of zeros has a scale of one, which kernels take.
    """
    assert encoded.scale is not None
    codes = encoded.codes.to(torch.int16) + encoded.low
    scale = encoded.scale.float().expand(len(codes), 1)
    codes, scale = torch.where(scale < 0, -codes, codes).clamp_(-128, 127), scale.abs().squeeze(1)
    return codes.to(torch.int8), torch.where((codes == 0).all(dim=1), torch.ones_like(scale), scale)
