"""Sums over the negative and the positive values of rows: the levels of binary and ternary formats are their means."""

import math

import torch
from torch import Tensor

from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec


def sign_sums(rows: Tensor, thresholds: Tensor, spec: QuantSpec) -> Tensor:
    """Return [R or 1, 4] float64: (sum, count) of |x| over x < -threshold, then over x > threshold, per channel or over the tensor."""
    if rows.device.type == "cpu":
        from quant_core.kernels import signs

        sums = torch.empty(len(rows), 4, dtype=torch.float64)
        run.over_rows(signs.sign_sums, rows.numpy(), thresholds.reshape(-1).numpy(), sums.numpy())
    else:
        below, above, wide = rows < -thresholds, rows > thresholds, rows.abs().to(torch.float64)
        sums = torch.stack([(wide * below).sum(1), below.sum(1), (wide * above).sum(1), above.sum(1)], dim=1).to(torch.float64)
    if spec.granularity == "channel":
        return sums
    return sums.new_tensor([[math.fsum(column) for column in sums.t().tolist()]])


def mean_magnitude(rows: Tensor, spec: QuantSpec) -> Tensor:
    """Return mean |x|, [R or 1, 1] float64, per channel or over the tensor."""
    if rows.device.type == "cpu":
        from quant_core.kernels import signs

        sums = torch.empty(len(rows), dtype=torch.float64)
        run.over_rows(signs.magnitudes, rows.numpy(), sums.numpy())
    else:
        sums = rows.abs().to(torch.float64).sum(dim=1)
    if spec.granularity == "channel":
        return sums.unsqueeze(1) / rows.shape[1]
    return sums.new_tensor([[math.fsum(sums.tolist())]]) / rows.numel()
