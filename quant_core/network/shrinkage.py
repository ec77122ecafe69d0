"""Second moments of few or correlated inputs, shrunk to their diagonal by as much as two halves of them disagree.

Of fewer independent patches than inputs the sample moments have directions of hardly any energy, in which rounding hides its errors; other
data has energy there. With R the correlations (moments with a diagonal of 1) and R* what they would be of endless data, the combination
(1 - s) R + s I that is nearest to R* has s = E |R - R*|^2 / E |R - I|^2 (Ledoit and Wolf 2004, J. Multivariate Analysis 88, theorem 2.1,
with the diagonal for the target). They take the numerator from independent rows; patches of one image are not, so here it comes from two
halves of the examples: |R1 - R2|^2 / 4.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from quant_core.network.moments import LARGEST_MATRIX, InputMoments, gatherers

STRENGTH = 4.0
"""Times s / (1 - s) of the diagonal is added: rounding needs the inverse, which suffers more from small samples than the moments. Of 1, 4
and 16 it was the best for EfficientNet-Lite0 at 3 bits (docs/reconstruct.md)."""
MOST, LEAST = 0.9, 0.01
"""Largest s; the least share of the diagonal that is added."""


def shrunk_moments(module: Any, inputs: Iterable[Sequence[Tensor]], count: int, *, centered: bool) -> InputMoments | None:
    """Return the second moments of the patches of a layer's inputs, with `centered` their covariance, shrunk; None where there is no input.

    Above `quant_core.network.moments.LARGEST_MATRIX` inputs per output the moments are those of a sample, as they are.

    Args:
        module: of the layer.
        inputs: of all examples, part by part, one tensor per call.
        count: how many parts there are.
        centered: about the mean.
    """
    halves = gatherers(module, 2, -(-count // 2))
    seen = [0, 0]
    for index, tensors in enumerate(inputs):
        for x in tensors:
            halves[index % 2].update(x)
            seen[index % 2] += 1
    there = [half.result(centered) for half, calls in zip(halves, seen, strict=True) if calls]
    moments = [half for half in there if isinstance(half, InputMoments)]
    return combined(*moments) if len(moments) == 2 else next(iter(moments), None)


def combined(one: InputMoments, other: InputMoments) -> InputMoments:
    """Return the mean of the moments of two halves, with `STRENGTH` s / (1 - s) of its diagonal added."""
    if one.rows is not None and other.rows is not None and one.rows.shape[2] > LARGEST_MATRIX:
        return InputMoments(rows=torch.cat([one.rows, other.rows], dim=1))
    first, second = _matrix(one), _matrix(other)
    mean = (first + second) / 2
    diagonal = mean.diagonal(dim1=1, dim2=2)
    unit = torch.where(diagonal > 0, diagonal.clamp_min(1e-30).rsqrt(), torch.zeros_like(diagonal))
    scale = unit[:, :, None] * unit[:, None, :]
    noise = ((first - second) * scale).square().sum(dim=(1, 2)) / 4
    away = (mean * scale).square().sum(dim=(1, 2)) - (unit > 0).sum(dim=1)
    share = torch.where(away > 0, noise / away.clamp_min(1e-30), torch.full_like(away, MOST)).clamp(max=MOST)
    mean.diagonal(dim1=1, dim2=2).mul_(1 + (STRENGTH * share / (1 - share)).clamp_min(LEAST)[:, None])
    return InputMoments(mean)


def _matrix(moments: InputMoments) -> Tensor:
    if moments.matrix is not None:
        return moments.matrix
    assert moments.rows is not None
    return moments.rows.transpose(1, 2) @ moments.rows / max(moments.rows.shape[1], 1)
