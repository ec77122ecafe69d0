"""AdaRound: round each weight up or down so that the layer's OUTPUT changes least (Nagel et al., ICML 2020).

Differences from the paper, all measured better or equal here: the reconstruction error is the exact quadratic form of the input's second
moments instead of minibatches, the input is the float network's (so that a result depends on layer and spec alone and can be cached; the
paper's asymmetric form depends on every earlier layer), after the soft optimisation single weights (pairs too, of up to 64 inputs) are
flipped while that helps, and GPTQ restricted to the two neighbours (`quant_core.ptq.gptq`) is a second start, the only one for most
rows of a layer that is too large for the soft optimisation.
"""

import math
from dataclasses import replace

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.clipping.kernels import search_rows
from quant_core.codecs import Encoded
from quant_core.codecs.quantize import encode
from quant_core.network.moments import InputMoments
from quant_core.network.patches import weight_rows
from quant_core.ptq.gptq import descend, feed_back
from quant_core.ptq.grids import Grids, grids_of, with_places
from quant_core.ptq.weighting import importance
from quant_core.spec.quant_spec import QuantSpec

ZETA, GAMMA = 1.1, -0.1
STEPS, WARM_UP, RATE, PULL = 300, 0.2, 0.1, 3.0
SWEEPS = 20
PAIRED = 64
LARGEST = 700_000_000_000
"""Multiply-adds of the soft optimisation of one layer: those of 1024 outputs of 1024 inputs."""
ROWS, LEAST_GAIN = 32, 0.01


def adaround(module: nn.Module, weight: Tensor, spec: QuantSpec, channel_axis: int, moments: InputMoments) -> Encoded:
    """Return `weight` encoded on the grid that `spec` gives it, each value rounded down or up to its neighbour there.

    The expected squared output error, with the `moments` of the input patches, is for no output channel above that of rounding to nearest.
    It costs 600 groups x outputs x K^2 multiply-adds, at most `LARGEST`, and a few sweeps of flips: 0.3 s for 96 outputs of 256 inputs
    on one core, 11 s for 1024 of 1024.
    """
    weights = importance(module, moments) if spec.weighted else None
    encoded = encode(weight, replace(spec, rounding="nearest"), channel_axis=channel_axis, importance=weights)
    grids, codes = grids_of(module, encoded, spec, tuple(weight.shape), channel_axis)
    values = weight_rows(module, weight.float())
    down = grids.floor(values)
    lowest = grids.values(down)
    above = grids.values((down + 1).clamp(max=grids.top)) - lowest
    room = torch.where(lowest <= values, above, torch.zeros_like(above))
    places = down + (room > 0) * round_up(lowest - values, room, moments)
    return with_places(module, encoded, places, codes, spec, channel_axis)


def round_up(error: Tensor, step: Tensor, moments: InputMoments) -> Tensor:
    """Return h in {0, 1} [G, O, K] that makes d M d^T of d = error + h step small, for no row above that of rounding to nearest.

    `error` is that of rounding everything down; `step` is 0 where there is no choice; `moments` are of G groups of K inputs. Each row is
    the best of nearest, of GPTQ between the two neighbours, and of the soft optimisation, all after flips.
    """
    nearest = (-error >= step / 2).float() * (step > 0)
    closed = feed_back(torch.zeros_like(error), Grids(error, step, 1), moments)
    best = nearest
    for start in (nearest, closed):
        best = _better(error, step, moments, best, _flip(error, step, moments, start))
    scale = max(float(moments.energy(error + nearest * step).sum()), 1e-30)
    if STEPS * 2 * error.numel() * error.shape[2] <= LARGEST:
        soft = _relax(error, step, moments, error.numel() / scale)
        return _better(error, step, moments, best, _flip(error, step, moments, soft))
    return _relax_worst(error, step, moments, best, error.numel() / scale)


def _better(error: Tensor, step: Tensor, moments: InputMoments, h: Tensor, other: Tensor) -> Tensor:
    """Return the rows of `h`, or those of `other` where their error is smaller."""
    lower = moments.energy(error + other * step) < moments.energy(error + h * step)
    return torch.where(lower[:, :, None], other, h)


def _relax_worst(error: Tensor, step: Tensor, moments: InputMoments, h: Tensor, weighting: float) -> Tensor:
    """Optimise the rows of a large layer in batches, those with the largest error first, while that gains and `LARGEST` lasts."""
    groups, outputs, columns = error.shape
    energy = moments.energy(error + h * step)
    order = energy.sum(dim=0).argsort(descending=True, stable=True)
    affordable = LARGEST // (STEPS * 2 * groups * columns**2)
    out = h.clone()
    for start in range(0, min(affordable, outputs), ROWS):
        rows = order[start : min(start + ROWS, affordable)]
        part = error[:, rows], step[:, rows]
        soft = _flip(*part, moments, _relax(*part, moments, weighting))
        out[:, rows] = _better(*part, moments, h[:, rows], soft)
        if moments.energy(part[0] + out[:, rows] * part[1]).sum() > (1 - LEAST_GAIN) * energy[:, rows].sum():
            break
    return out


def _relax(error: Tensor, step: Tensor, moments: InputMoments, weighting: float) -> Tensor:
    """Optimise the rectified sigmoid h(V) (equation 23) by Adam; equation 25's regulariser starts after the warm-up, beta from 20 to 2."""
    fraction = torch.where(step > 0, -error / step.clamp_min(1e-30), torch.full_like(step, 0.5)).clamp(1e-3, 1 - 1e-3)
    v = torch.log((fraction - GAMMA) / (ZETA - fraction)).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=RATE)
    for i in range(STEPS):
        with torch.no_grad():
            s = torch.sigmoid(v)
            h = (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
            gradient = 2 * moments.times(error + step * h) * step * weighting
            progress = (i / STEPS - WARM_UP) / (1 - WARM_UP)
            if progress >= 0:
                beta = 2 + 9 * (1 + math.cos(progress * math.pi))
                distance = 2 * h - 1
                gradient -= 2 * PULL * beta * distance.abs().pow(beta - 1) * distance.sign()
            v.grad = gradient * ((h > 0) & (h < 1)) * (ZETA - GAMMA) * s * (1 - s)
        optimizer.step()
    return ((torch.sigmoid(v.detach()) * (ZETA - GAMMA) + GAMMA) >= 0.5).float() * (step > 0)


def _flip(error: Tensor, step: Tensor, moments: InputMoments, start: Tensor) -> Tensor:
    """Flip single weights of each output, of up to `PAIRED` inputs pairs too, while its error falls."""
    if moments.matrix is None or error.shape[2] > PAIRED:
        return descend(torch.zeros_like(error), Grids(error, step, 1), start, moments, SWEEPS)
    h = start.cpu().numpy().copy()
    gradient = moments.times(error + start * step).cpu().numpy()
    for group in range(len(h)):
        search_rows(_flip_rows, h[group], gradient[group], step[group].cpu().numpy(), moments.matrix[group].cpu().numpy())
    return torch.from_numpy(h).to(start.device)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _flip_rows(
    h: NDArray[np.float32],
    first: int,
    last: int,
    gradient: NDArray[np.float32],
    step: NDArray[np.float32],
    moments: NDArray[np.float32],
) -> None:
    """Flip one weight, or a weight with its best partner, while the error of the row falls."""
    columns = h.shape[1]
    for row in range(first, last):
        for _ in range(SWEEPS):
            flips = 0
            for j in range(columns):
                d = step[row, j] * (np.float32(1) - np.float32(2) * h[row, j])
                alone = d * (2 * gradient[row, j] + d * moments[j, j])
                partner, gain = j, alone
                for k in range(j):
                    other = step[row, k] * (np.float32(1) - np.float32(2) * h[row, k])
                    both = alone + other * (2 * gradient[row, k] + other * moments[k, k]) + 2 * d * other * moments[j, k]
                    if both < gain and other != 0:
                        partner, gain = k, both
                if gain < -1e-5 * d * d * moments[j, j]:
                    h[row, j] = 1 - h[row, j]
                    gradient[row] += d * moments[j]
                    if partner != j:
                        e = step[row, partner] * (np.float32(1) - np.float32(2) * h[row, partner])
                        h[row, partner] = 1 - h[row, partner]
                        gradient[row] += e * moments[partner]
                    flips += 1
            if flips == 0:
                break
