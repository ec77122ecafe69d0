"""AdaRound: round each weight up or down so that the layer's OUTPUT changes least (Nagel et al., ICML 2020).

Differences from the paper, all measured better or equal here: the reconstruction error is the exact quadratic form of the input's second
moments instead of minibatches, the input is the float network's (so that a result depends on layer and spec alone and can be cached; the
paper's asymmetric form depends on every earlier layer), and after the soft optimisation single weights (pairs too,
of up to 64 inputs) are flipped while that helps.
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
from quant_core.codecs.quantize import decode, encode
from quant_core.network.moments import InputMoments, weight_from_rows, weight_rows
from quant_core.spec.quant_spec import QuantSpec

ZETA, GAMMA = 1.1, -0.1
STEPS, WARM_UP, RATE, PULL = 300, 0.2, 0.1, 3.0
SWEEPS = 20
PAIRED = 64


def adaround(module: nn.Module, weight: Tensor, spec: QuantSpec, channel_axis: int, moments: InputMoments) -> Encoded:
    """Return `weight` encoded on the grid that `spec` gives it, each value rounded down or up.

    The expected squared output error, with the `moments` of the input patches, is never above that of rounding to nearest.
    It costs 600 groups x outputs x K^2 multiply-adds and a sweep of flips: 0.3 s for 96 outputs of 256 inputs on one core, a minute
    or more for the largest layers of an ImageNet network.
    """
    encoded = encode(weight, replace(spec, rounding="nearest"), channel_axis=channel_axis)
    top = 2**spec.bits - 1

    def value(codes: Tensor) -> Tensor:
        return decode(replace(encoded, codes=codes), spec, tuple(weight.shape), channel_axis=channel_axis)

    lowest = value(torch.zeros_like(encoded.codes))
    step = (value(torch.full_like(encoded.codes, top)) - lowest) / top
    floor = torch.floor((weight.float() - lowest) / step)
    down = floor.clamp(0, top)
    room = (floor + 1).clamp(0, top) - down
    up = round_up(weight_rows(module, lowest + down * step - weight.float()), weight_rows(module, room * step), moments)
    codes = down + room * weight_from_rows(module, up)
    return replace(encoded, codes=codes.movedim(channel_axis, 0).reshape(encoded.codes.shape).to(encoded.codes.dtype))


def round_up(error: Tensor, step: Tensor, moments: InputMoments) -> Tensor:
    """Return h in {0, 1} [G, O, K] that makes sum d M d^T of d = error + h step small, and never above that of rounding to nearest.

    `error` is that of rounding everything down; `step` is 0 where there is no choice; `moments` are of G groups of K inputs.
    """
    nearest = (-error >= step / 2).float() * (step > 0)
    soft = _relax(error, step, moments, max(_objective(error + nearest * step, moments), 1e-30))
    flipped = [_flip(error, step, moments, start) for start in (soft, nearest)]
    return min((nearest, *flipped), key=lambda h: _objective(error + h * step, moments))


def _objective(d: Tensor, moments: InputMoments) -> float:
    return float(moments.energy(d).sum())


def _relax(error: Tensor, step: Tensor, moments: InputMoments, scale: float) -> Tensor:
    """Optimise the rectified sigmoid h(V) (equation 23) by Adam; equation 25's regulariser starts after the warm-up, beta from 20 to 2."""
    fraction = torch.where(step > 0, -error / step.clamp_min(1e-30), torch.full_like(step, 0.5)).clamp(1e-3, 1 - 1e-3)
    v = torch.log((fraction - GAMMA) / (ZETA - fraction)).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=RATE)
    for i in range(STEPS):
        with torch.no_grad():
            s = torch.sigmoid(v)
            h = (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
            gradient = 2 * moments.times(error + step * h) * step * (v.numel() / scale)
            progress = (i / STEPS - WARM_UP) / (1 - WARM_UP)
            if progress >= 0:
                beta = 2 + 9 * (1 + math.cos(progress * math.pi))
                distance = 2 * h - 1
                gradient -= 2 * PULL * beta * distance.abs().pow(beta - 1) * distance.sign()
            v.grad = gradient * ((h > 0) & (h < 1)) * (ZETA - GAMMA) * s * (1 - s)
        optimizer.step()
    return ((torch.sigmoid(v.detach()) * (ZETA - GAMMA) + GAMMA) >= 0.5).float() * (step > 0)


def _flip(error: Tensor, step: Tensor, moments: InputMoments, start: Tensor) -> Tensor:
    """Flip single weights of each output while its error falls; left out where the moments are a sample."""
    if moments.matrix is None:
        return start
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
    """Flip one weight, or in short rows a weight with its best partner, while the error of the row falls."""
    columns = h.shape[1]
    for row in range(first, last):
        for _ in range(SWEEPS):
            flips = 0
            for j in range(columns):
                d = step[row, j] * (np.float32(1) - np.float32(2) * h[row, j])
                alone = d * (2 * gradient[row, j] + d * moments[j, j])
                partner, gain = j, alone
                for k in range(j if columns <= PAIRED else 0):
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
