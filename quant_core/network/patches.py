"""A layer as a matrix product: its input as patches, its weight as rows."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.fold import TRANSPOSED
from quant_core.network.trace import is_transformers_conv1d
from quant_core.util import rng

PIECE_BYTES = 32 * 2**20
"""Most bytes of the overlapping windows of a convolution's input that are held at once."""


def weight_rows(module: Any, weight: Tensor) -> Tensor:
    """Return a weight as [groups, outputs of a group, inputs of a patch]; `weight_from_rows` inverts it."""
    if isinstance(module, TRANSPOSED):
        taps = tuple(range(2, weight.dim()))
        grouped = weight.flip(taps).reshape(module.groups, -1, weight.shape[1], weight[0, 0].numel())
        return grouped.transpose(1, 2).flatten(2)
    if is_transformers_conv1d(module):
        return weight.t()[None]
    return weight.reshape(_groups(module), -1, weight[0].numel())


def weight_from_rows(module: Any, rows: Tensor) -> Tensor:
    """Return rows of `weight_rows` in the shape of the module's weight."""
    shape = module.weight.shape
    if isinstance(module, TRANSPOSED):
        grouped = rows.reshape(module.groups, shape[1], shape[0] // module.groups, -1).transpose(1, 2)
        return grouped.reshape(shape).flip(tuple(range(2, len(shape))))
    return rows[0].t() if is_transformers_conv1d(module) else rows.reshape(shape)


def patches(module: Any, x: Tensor, limit: int = 2**62, part: tuple[int, int, int] = (0, 1, 1)) -> Tensor:
    """Return [groups, positions, inputs of a patch]: times the transposed `weight_rows`, the layer's output without its bias.

    Of more than `limit` positions a fixed random choice of that many is taken. Where `x` is a part of a batch (first example, how many, of
    how many), the choice is that of the batch as far as it lies in the part.
    """
    if isinstance(module, nn.Linear) or is_transformers_conv1d(module):
        flat = x.reshape(1, -1, x.shape[-1])
        chosen = _choice(flat.shape[1], limit, part)
        return flat if chosen is None else flat[:, chosen]
    spatial = len(module.kernel_size)
    x = x if x.dim() == spatial + 2 else x[None]
    x, stride = (_dilated(module, x), (1,) * spatial) if isinstance(module, TRANSPOSED) else (_padded(module, x), module.stride)
    for axis, (kernel, step, dilation) in enumerate(zip(module.kernel_size, stride, module.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, step)[..., ::dilation]
    x = x.reshape(x.shape[0], module.groups, -1, *x.shape[2:])  # [N, groups, channels, positions ..., taps ...]
    x = x.permute(1, 0, *range(3, 3 + spatial), 2, *range(3 + spatial, x.dim()))
    sites = x.shape[1 : 2 + spatial]
    chosen = _choice(math.prod(sites), limit, part)
    if chosen is None:
        return x.flatten(1, 1 + spatial).flatten(2)
    return x.movedim(0, -1)[torch.unravel_index(chosen, sites)].movedim(-1, 0).flatten(2)


def bounded_patches(module: Any, x: Tensor, limit: int = 2**62, part: tuple[int, int, int] = (0, 1, 1)) -> Iterator[Tensor]:
    """Yield the patches of `patches` in pieces of some examples each: overlapping windows take `PIECE_BYTES` at once, or one example."""
    taps = math.prod(getattr(module, "kernel_size", ()))
    if taps <= 1 or x.dim() < len(module.kernel_size) + 2 or len(x) < 2:
        yield patches(module, x, limit, part)
        return
    first, _, total = (number * len(x) for number in part)  # in rows of x, of which an example may have many, or a share
    share, step = part[1], max(1, PIECE_BYTES // max(1, x[0].nbytes * taps))
    for row in range(0, len(x), step):
        taken = x[row : row + step]
        yield patches(module, taken, limit, (first + row * share, len(taken) * share, total))


def _choice(count: int, limit: int, part: tuple[int, int, int]) -> Tensor | None:
    """Return which of the `count` positions of a part are taken; None: all."""
    first, examples, total = part
    whole = count * total // examples
    if whole <= limit:
        return None
    chosen = _drawn(whole, limit)
    if count == whole:
        return chosen
    start = first * whole // total
    return chosen[(chosen >= start) & (chosen < start + count)] - start


@lru_cache(maxsize=8)
def _drawn(whole: int, limit: int) -> Tensor:
    return torch.randperm(whole, generator=rng.generator(whole))[:limit].clone()


def _groups(module: Any) -> int:
    return 1 if isinstance(module, nn.Linear) else int(module.groups)


def _padded(module: Any, x: Tensor) -> Tensor:
    edges: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
        named = {"same": (reach // 2, reach - reach // 2), "valid": (0, 0)}
        edges += named[module.padding] if isinstance(module.padding, str) else (module.padding[axis],) * 2
    return F.pad(x, edges, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)


def _dilated(module: Any, x: Tensor) -> Tensor:
    """Turn the input of a transposed convolution into that of the convolution of stride 1 with the flipped kernel."""
    sizes = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], module.stride, strict=True)]
    wide = x.new_zeros((*x.shape[:2], *sizes))
    target = wide
    for axis, step in enumerate(module.stride):
        target = target[(slice(None),) * (2 + axis) + (slice(None, None, step),)]
    target.copy_(x)
    edges: list[int] = []
    for axis in reversed(range(len(sizes))):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) - module.padding[axis]
        edges += [reach, reach + module.output_padding[axis]]
    return F.pad(wide, edges)
