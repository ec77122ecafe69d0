"""`mad`: magnitude-aware differentiation of clipped weights (Sakr et al., ICML 2022, arXiv:2206.06501, section 4), for integers.

The paper's default, MAD for weights and the piece-wise linear gradient for activations (MPH): inputs are trained by `ste`.
"""

from functools import partial

import torch
from torch import Tensor

from quant_core.codecs.blocks import expand_blocks
from quant_core.codecs.qparams import BlockQParams
from quant_core.qat import ste
from quant_core.qat.method import Method, is_linear, no_input
from quant_core.qat.rows import inside


def magnitude_aware(rows: Tensor, grid: BlockQParams) -> Tensor:
    """Return the gradient factor, [R, C]: 1 inside the clip range, s / |x| outside, where s is the end of the range that x lies beyond."""
    columns = rows.shape[1]
    lowest, highest = ((end - grid.zero_point) * grid.scale for end in (grid.quant_min, grid.quant_max))
    end = torch.where(rows > 0, expand_blocks(highest, grid.block, columns), expand_blocks(lowest, grid.block, columns))
    return torch.where(inside(rows, grid), 1.0, end.abs() / rows.abs())


METHOD = Method(
    partial(ste.RangeWeight, factor=magnitude_aware),
    ste.activation,
    is_linear,
    no_input,
    "gradient s / |x| beyond the clip range of a weight (OCTAV paper, ICML 2022)",
)
