"""Linear maps of the channels of an activation: scales, and rotations in blocks; every one has an inverse."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_core.util import rng


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """x -> x M (or x * s + t) along one axis.

    Attributes:
        size: of the block that is mapped; an axis of a multiple of it is mapped block by block.
        matrix: [size, size], orthogonal; None for a scale.
        scale, shift: [size].
        whole: the axis must have exactly `size` channels.
    """

    size: int
    matrix: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    whole: bool = True

    def fits(self, channels: int) -> bool:
        """Tell whether an axis of so many channels can be mapped."""
        return channels == self.size if self.whole else channels > 0 and channels % self.size == 0

    def apply(self, x: Tensor, axis: int = -1) -> Tensor:
        """Return x, of any shape, mapped along `axis`; computed in float64, in the type of x."""
        moved = x.movedim(axis, -1)
        blocks = moved.reshape(*moved.shape[:-1], moved.shape[-1] // self.size, self.size)
        if self.matrix is not None:
            mapped = (blocks.double() @ self.matrix.to(blocks.device)).to(x.dtype)
        else:
            assert self.scale is not None
            mapped = blocks * self.scale.to(blocks)
            mapped = mapped if self.shift is None else mapped + self.shift.to(blocks)
        return mapped.reshape(moved.shape).movedim(-1, axis)


def random_rotation(size: int, seed: int, *, keeps_ones: bool = False) -> Tensor:
    """Return a random orthogonal matrix [size, size] in float64: randomized Hadamard where there is a Hadamard matrix of that size.

    QuaRot (Ashkboos et al., NeurIPS 2024, arXiv 2404.00456), section 3: diag(signs) H / sqrt(n). Where `hadamard` knows none, the Q of a
    QR decomposition of normal numbers.

    Args:
        size: of the matrix.
        seed: of the signs.
        keeps_ones: the vector of ones is mapped to itself, so that the mean over channels stays: such a rotation commutes with the
            LayerNorm of no gain, and the mean need not be taken out of the network first as in SliceGPT (Ashkboos et al., ICLR 2024,
            arXiv 2401.15024), section 3.2. The matrix is followed by the Householder reflection that takes the image of ones back.
    """
    generator = rng.generator(seed)
    hadamard_matrix = hadamard(size)
    matrix: Tensor
    if hadamard_matrix is None:
        q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
        matrix = (q * torch.sign(torch.diagonal(r))).contiguous()
    else:
        signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
        matrix = signs[:, None] * hadamard_matrix / math.sqrt(size)
    if not keeps_ones:
        return matrix
    normal = matrix.sum(dim=0) - 1.0
    length = float(normal @ normal)
    reflected: Tensor = matrix - (matrix @ normal)[:, None] * normal * (2.0 / max(length, 1e-300))
    return matrix if length < 1e-20 else reflected


def hadamard(size: int) -> Tensor | None:
    """Return a Hadamard matrix [size, size] of 1 and -1: powers of two (Sylvester) times 1 or p + 1 for a prime p = 3 mod 4 (Paley).

    None where this makes no matrix of that size.
    """
    factor = size
    doublings = 0
    while factor > 0 and not _is_paley(factor) and factor % 2 == 0:
        factor, doublings = factor // 2, doublings + 1
    if factor != 1 and not _is_paley(factor):
        return None
    matrix = torch.ones(1, 1, dtype=torch.float64) if factor == 1 else _paley(factor)
    for _ in range(doublings):
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix


def _is_paley(size: int) -> bool:
    prime = size - 1
    return size % 4 == 0 and size & (size - 1) != 0 and all(prime % d for d in range(2, math.isqrt(prime) + 1))


def _paley(size: int) -> Tensor:
    """Return I + S with S = [[0, 1], [-1, Q]], Q the Legendre symbols of the differences (Paley, 1933, first construction)."""
    prime = size - 1
    squares = {(i * i) % prime for i in range(1, prime)}
    symbols = torch.tensor([0.0 if i == 0 else 1.0 if i in squares else -1.0 for i in range(prime)], dtype=torch.float64)
    index = torch.arange(prime)
    matrix = torch.ones(size, size, dtype=torch.float64)
    matrix[1:, 0] = -1.0
    matrix[1:, 1:] = symbols[(index[:, None] - index[None, :]) % prime] + torch.eye(prime, dtype=torch.float64)
    return matrix
