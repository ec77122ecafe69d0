"""A layer as a matrix product: its input as patches, its weight as rows, and the second moments of the patches over calibration data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.fold import TRANSPOSED
from quant_core.network.forward import forward, watched_inputs
from quant_core.network.trace import is_transformers_conv1d
from quant_core.util import rng

POSITIONS = 16_384
LARGEST_MATRIX = 4096
"""Inputs of a patch up to which the K x K matrix is held: 64 MiB."""
SAMPLE_BYTES, FEWEST_ROWS, MOST_ROWS = 2**26, 128, 2048


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


def patches(module: Any, x: Tensor, limit: int = 2**62) -> Tensor:
    """Return [groups, positions, inputs of a patch]: times the transposed `weight_rows`, the layer's output without its bias.

    Of more than `limit` positions a fixed random choice of that many is taken.
    """
    if isinstance(module, nn.Linear) or is_transformers_conv1d(module):
        flat = x.reshape(1, -1, x.shape[-1])
        return flat[:, _choice(flat.shape[1], limit)] if flat.shape[1] > limit else flat
    spatial = len(module.kernel_size)
    x = x if x.dim() == spatial + 2 else x[None]
    x, stride = (_dilated(module, x), (1,) * spatial) if isinstance(module, TRANSPOSED) else (_padded(module, x), module.stride)
    for axis, (kernel, step, dilation) in enumerate(zip(module.kernel_size, stride, module.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, step)[..., ::dilation]
    x = x.reshape(x.shape[0], module.groups, -1, *x.shape[2:])  # [N, groups, channels, positions ..., taps ...]
    x = x.permute(1, 0, *range(3, 3 + spatial), 2, *range(3 + spatial, x.dim()))
    sites = x.shape[1 : 2 + spatial]
    if math.prod(sites) <= limit:
        return x.flatten(1, 1 + spatial).flatten(2)
    chosen = torch.unravel_index(_choice(math.prod(sites), limit), sites)
    return x.movedim(0, -1)[chosen].movedim(-1, 0).flatten(2)


@dataclass(frozen=True, eq=False)
class InputMoments:
    """The second moments M of a layer's input patches over the calibration data, or their covariance.

    Attributes:
        matrix: [groups, K, K], exact; None where K is too large to hold it.
        rows: [groups, n, K], a sample of the patches (less their mean, for a covariance) in its place: M is their mean outer product.
    """

    matrix: Tensor | None = None
    rows: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.matrix, self.rows) if part is not None)

    def times(self, values: Tensor) -> Tensor:
        """Return `values` [groups, O, K] times M."""
        if self.matrix is not None:
            return values @ self.matrix
        assert self.rows is not None
        return (values @ self.rows.transpose(1, 2)) @ self.rows / max(self.rows.shape[1], 1)

    def energy(self, values: Tensor) -> Tensor:
        """Return v M v for every row v of `values` [groups, O, K], as [groups, O]."""
        if self.matrix is not None:
            return (self.times(values) * values).sum(dim=2)
        assert self.rows is not None
        return (values @ self.rows.transpose(1, 2)).square().sum(dim=2) / max(self.rows.shape[1], 1)


def second_moments(
    model: nn.Module, modules: Mapping[str, nn.Module], batches: Sequence[Any], *, centered: bool, largest: int = LARGEST_MATRIX
) -> dict[str, InputMoments]:
    """Return the second moments of the patches that reach each module, in one pass; with `centered` their covariance.

    At most 16,384 (or 8 K, where that is more) positions of each module are used. Where K is above `largest`, a random sample of patches
    stands for the matrix: 64 MiB of them, between 128 and 2,048.
    """
    gathered = {name: _moments_of(module, len(batches), largest) for name, module in modules.items()}
    with torch.no_grad(), watched_inputs(modules, lambda name, x: gathered[name].update(x)):
        for inputs in batches:
            forward(model, inputs)
    return {name: moments.result(centered) for name, moments in gathered.items()}


def _moments_of(module: Any, batches: int, largest: int) -> "_Matrix | _Sample":
    groups, _, size = weight_rows(module, module.weight).shape
    if size <= largest:
        return _Matrix(module, max(1, max(POSITIONS, 8 * size) // max(batches, 1)))
    rows = min(max(SAMPLE_BYTES // (4 * groups * size), FEWEST_ROWS), MOST_ROWS)
    return _Sample(module, max(1, -(-rows // max(batches, 1))))


class _Matrix:
    """Sums over the patches that reach one module."""

    def __init__(self, module: nn.Module, limit: int) -> None:
        self._module, self._limit = module, limit
        self._outer: Tensor | float = 0.0
        self._sum: Tensor | float = 0.0
        self._count = 0

    def update(self, x: Tensor) -> None:
        rows = patches(self._module, x, self._limit).to(torch.float32)
        self._outer = self._outer + rows.transpose(1, 2) @ rows
        self._sum = self._sum + rows.sum(dim=1)
        self._count += rows.shape[1]

    def result(self, centered: bool) -> InputMoments:
        moments = torch.as_tensor(self._outer) / max(self._count, 1)
        mean = torch.as_tensor(self._sum) / max(self._count, 1)
        return InputMoments(moments - mean[:, :, None] * mean[:, None, :] if centered else moments)


class _Sample:
    """Some of the patches that reach one module, as many of every batch."""

    def __init__(self, module: nn.Module, limit: int) -> None:
        self._module, self._limit = module, limit
        self._rows: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        self._rows.append(patches(self._module, x, self._limit).to(torch.float32).clone())

    def result(self, centered: bool) -> InputMoments:
        if not self._rows:
            return InputMoments(rows=torch.zeros(1, 0, 1))
        rows = torch.cat(self._rows, dim=1)
        self._rows.clear()
        return InputMoments(rows=rows.sub_(rows.mean(dim=1, keepdim=True)) if centered else rows)


def _choice(count: int, limit: int) -> Tensor:
    return torch.randperm(count, generator=rng.generator(count))[:limit]


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
