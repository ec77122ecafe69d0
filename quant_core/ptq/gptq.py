"""GPTQ: round a layer's columns one after the other, each for the output error that those before left (Frantar et al., ICLR 2023).

With H = M + lambda I, M the second moments of the input patches, the expected squared output error of q is (q - w) H (q - w) summed over
the rows. GPTQ (arXiv 2210.17323, algorithm 1) rounds column after column and moves the columns that are still free to where they make
the error least. With H = L L^T in the reverse order of the columns that is Babai's nearest plane (Chen et al., arXiv 2507.18553): the
target of column i is w_i - sum over the columns j done of (q_j - w_j) L_ji / L_ii. One Cholesky factor serves, no inverse.
Columns go in the order of falling H_ii ("act-order"); the scales are those of the weights before it, so the storage is that of rounding to
nearest. After it columns are moved one at a time to their best value given all others, while that helps: coordinate descent (Behdin et
al., QuantEase, arXiv 2309.01885, equation 9).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quant_core.clipping.kernels import search_rows
from quant_core.codecs import Encoded
from quant_core.codecs.quantize import encode
from quant_core.kernels import feedback
from quant_core.network.moments import InputMoments
from quant_core.network.patches import weight_rows
from quant_core.ptq.corrections import takes_gain
from quant_core.ptq.grids import Grids, grids_of, with_places
from quant_core.ptq.weighting import importance, refitted
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError

DAMPING = 0.01
"""lambda as a share of the mean of diag M; ten times as much while the Cholesky factorization fails."""
BLOCK, SAMPLE_BLOCK = 128, 512
SWEEPS = 4
REFITS = 3
_TRIES = 5


def gptq(module: Any, weight: Tensor, spec: QuantSpec, channel_axis: int, moments: InputMoments) -> Encoded:
    """Return `weight` encoded on the grid that `spec` gives it, with the codes that GPTQ and coordinate descent choose.

    The expected squared output error of no output channel is above that of rounding to nearest. It costs K^3 / 3 + outputs x K^2
    multiply-adds per group of K inputs, and as much as the latter per sweep of descent. The scales of a `weighted` spec are fitted to the
    output in turns with the codes, `REFITS` times; those of others are the scales of rounding to nearest.

    Raises:
        InputError: the moments are not finite.
    """
    weights = importance(module, moments) if spec.weighted else None
    encoded = encode(weight, replace(spec, rounding="nearest"), channel_axis=channel_axis, importance=weights)
    grids, codes = grids_of(module, encoded, spec, tuple(weight.shape), channel_axis)
    values = weight_rows(module, weight.float())
    places = round_by_moments(values, grids, moments)
    encoded = with_places(module, encoded, places, codes, spec, channel_axis)
    for _ in range(REFITS if spec.weighted and takes_gain(spec) else 0):
        encoded = refitted(encoded, spec, module, weight, channel_axis, moments)
        grids, codes = grids_of(module, encoded, spec, tuple(weight.shape), channel_axis)
        places = descend(values, grids, places, moments, SWEEPS)
        encoded = with_places(module, encoded, places, codes, spec, channel_axis)
    return encoded


def round_by_moments(weight: Tensor, grids: Grids, moments: InputMoments, sweeps: int = SWEEPS) -> Tensor:
    """Return places [G, O, K] on `grids` of the values that GPTQ and `sweeps` of coordinate descent give `weight` [G, O, K].

    Rows that rounding to nearest serves better start the descent there.
    """
    nearest, places = grids.nearest(weight), feed_back(weight, grids, moments)
    worse = moments.energy(grids.values(places) - weight) > moments.energy(grids.values(nearest) - weight)
    return descend(weight, grids, torch.where(worse[:, :, None], nearest, places), moments, sweeps)


def feed_back(weight: Tensor, grids: Grids, moments: InputMoments) -> Tensor:
    """Return the places [G, O, K] that GPTQ gives `weight` [G, O, K], without the descent. The loops run on the CPU, in float32."""
    diagonal = moments.diagonal()
    order = diagonal.argsort(dim=1, stable=True)  # the last column is rounded first
    index = order[:, None, :].expand(weight.shape)
    target, low, step = (tensor.gather(2, index).cpu() for tensor in (weight, grids.low, grids.step))
    damping = DAMPING * diagonal.mean(dim=1).clamp_min(1e-30)
    for _ in range(_TRIES):
        try:
            places = _by_blocks(_form(moments, order, damping, weight.shape[1]), target, low, step, grids)
            return torch.empty_like(weight).scatter_(2, index, places.to(weight.device))
        except ArithmeticError:
            damping = 10 * damping
    raise InputError(f"second moments of {weight.shape[2]} inputs are not finite; look for huge values in the calibration data.")


def descend(weight: Tensor, grids: Grids, places: Tensor, moments: InputMoments, sweeps: int) -> Tensor:
    """Return places whose squared error d M d is not above that of `places`, after up to `sweeps` of coordinate descent."""
    target, low, step = (tensor.cpu() for tensor in (weight, grids.low.contiguous(), grids.step.contiguous()))
    errors, chosen = (grids.values(places) - weight).cpu(), places.cpu().contiguous().clone()
    rows = None if moments.rows is None else moments.rows.cpu() / max(moments.rows.shape[1], 1) ** 0.5
    matrix = None if moments.matrix is None else moments.matrix.cpu()
    sums = None if rows is None else errors @ rows.transpose(1, 2)
    for _ in range(sweeps):
        before = chosen.clone()
        for start in range(0, weight.shape[2], BLOCK):
            block = slice(start, start + BLOCK)
            part = [tensor[:, :, block].contiguous() for tensor in (target, low, step, chosen, errors)]
            if matrix is not None:
                slope, square = errors @ matrix[:, :, block], matrix[:, block, block].contiguous()
            else:
                assert rows is not None
                assert sums is not None
                columns = rows[:, :, block]
                slope, square = sums @ columns, columns.transpose(1, 2) @ columns
            _loop(feedback.descend_block, part[0], slope, square, part[1], part[2], grids, part[3], part[4])
            if sums is not None:
                sums += (part[4] - errors[:, :, block]) @ columns.transpose(1, 2)
            chosen[:, :, block], errors[:, :, block] = part[3], part[4]
        if torch.equal(before, chosen):
            break
    return chosen.to(weight.device)


def _form(moments: InputMoments, order: Tensor, damping: Tensor, outputs: int) -> "_Dense | _Dual":
    if moments.matrix is not None:
        return _Dense(moments.matrix, order, damping, outputs)
    assert moments.rows is not None
    return _Dual(moments.rows, order, damping, outputs)


class _Dense:
    """H = M + damping I, factored whole."""

    size = BLOCK

    def __init__(self, matrix: Tensor, order: Tensor, damping: Tensor, outputs: int) -> None:
        index = order[:, :, None].expand(matrix.shape)
        damped = matrix.double().gather(1, index).gather(2, index.transpose(1, 2))
        damped.diagonal(dim1=1, dim2=2).add_(damping[:, None])
        self._factor = _cholesky(damped).float().cpu()
        self._sums = torch.zeros(len(order), outputs, order.shape[1])

    def part(self, block: slice) -> tuple[Tensor, Tensor]:
        """Return the shifts [G, O, B] and the factor [G, B, B] of `feedback.round_block`."""
        return self._sums[:, :, block], self._factor[:, block, block].contiguous()

    def add(self, block: slice, errors: Tensor) -> None:
        """Take in the errors [G, O, B] of a block."""
        self._sums[:, :, : block.start] += errors @ self._factor[:, block, : block.start]


class _Dual:
    """H = X^T X + damping I with X [n, K], n < K: of n x n matrices alone.

    With r = sum of d_j x_j over the columns done, the columns R that are still free after a block B can bring the error to
    damping (|d_B|^2 + s A^-1 s) with s = r + X_B d_B and A = damping I + X_R X_R^T (Woodbury). In d_B that is a quadratic form with
    damping (I + X_B^T A^-1 X_B) and the slope damping X_B^T A^-1 r; its factor L and the shift L^-1 slope are the block's.
    """

    size = SAMPLE_BLOCK

    def __init__(self, rows: Tensor, order: Tensor, damping: Tensor, outputs: int) -> None:
        scaled = rows.double() / max(rows.shape[1], 1) ** 0.5
        self._rows = scaled.gather(2, order[:, None, :].expand(scaled.shape))
        self._damping = damping.to(self._rows)[:, None, None]
        eye = torch.eye(scaled.shape[1], dtype=torch.float64, device=rows.device)
        self._free = self._damping * eye + self._rows @ self._rows.transpose(1, 2)
        self._done = self._rows.new_zeros(len(rows), outputs, scaled.shape[1])

    def part(self, block: slice) -> tuple[Tensor, Tensor]:
        """As `_Dense.part`."""
        columns = self._rows[:, :, block]
        self._free -= columns @ columns.transpose(1, 2)
        free = _cholesky(self._free)
        white = torch.linalg.solve_triangular(free, columns, upper=False)
        eye = torch.eye(columns.shape[2], dtype=torch.float64, device=columns.device)
        factor = _cholesky(self._damping * (eye + white.transpose(1, 2) @ white))
        slope = self._damping * white.transpose(1, 2) @ torch.linalg.solve_triangular(free, self._done.transpose(1, 2), upper=False)
        shift = torch.linalg.solve_triangular(factor, slope, upper=False).transpose(1, 2)
        return shift.float().cpu(), factor.float().cpu()

    def add(self, block: slice, errors: Tensor) -> None:
        """As `_Dense.add`."""
        self._done += errors.to(self._done) @ self._rows[:, :, block].transpose(1, 2)


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower factors of [G, n, n]; `ArithmeticError` where a matrix is not positive definite, or not finite."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool(info.any()) or not bool(torch.isfinite(factor).all()):
        raise ArithmeticError("not positive definite")
    return factor


def _by_blocks(form: _Dense | _Dual, weight: Tensor, low: Tensor, step: Tensor, grids: Grids) -> Tensor:
    """Return the places, [G, O, K], of columns in the order of `form`, the last first."""
    places = torch.empty_like(weight)
    for end in range(weight.shape[2], 0, -form.size):
        block = slice(max(end - form.size, 0), end)
        shift, factor = form.part(block)
        at, errors = (torch.empty_like(shift, memory_format=torch.contiguous_format) for _ in range(2))
        parts = [tensor[:, :, block].contiguous() for tensor in (weight, low, step)]
        _loop(feedback.round_block, parts[0], shift.contiguous(), factor, parts[1], parts[2], grids, at, errors)
        places[:, :, block] = at
        form.add(block, errors)
    return places


def _loop(loop: Any, weight: Tensor, second: Tensor, square: Tensor, low: Tensor, step: Tensor, grids: Grids, *out: Tensor) -> None:
    """Run a loop of `quant_core.kernels.feedback` over [G, O, B] seen as rows; `out` is written."""
    groups, outputs, columns = weight.shape
    count = groups * outputs
    book = torch.zeros(1, 0) if grids.book is None else grids.book.cpu()
    per_book = -(-count // len(book))
    flat = [tensor.reshape(count, columns).numpy() for tensor in (weight, second.contiguous())]
    grid = [tensor.reshape(count, columns).numpy() for tensor in (low, step)]
    results = [tensor.view(count, columns).numpy() for tensor in out]
    search_rows(loop, flat[0], flat[1], square.numpy(), outputs, *grid, grids.top, book.numpy(), per_book, *results)
