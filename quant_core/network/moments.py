"""A layer as a matrix product: its input as patches, its weight as rows, and the second moments of the patches over calibration data."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.fold import TRANSPOSED
from quant_core.network.forward import forward, watched_inputs
from quant_core.network.trace import is_transformers_conv1d
from quant_core.util import rng
from quant_core.util.spill import Spilled, SpillFile, SpillWarning

POSITIONS = 16_384
LARGEST_MATRIX = 4096
"""Inputs of a patch up to which the K x K matrix is held: 64 MiB."""
SAMPLE_BYTES, FEWEST_ROWS, MOST_ROWS = 2**26, 128, 2048
_BLOCK, _PIECE = 512, 2**25


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
            step = max(1, _PIECE // (values.shape[0] * values.shape[2]))
            parts = [values[:, first : first + step] for first in range(0, max(1, values.shape[1]), step)]
            return torch.cat([(self.times(part) * part).sum(dim=2) for part in parts], dim=1)
        assert self.rows is not None
        return (values @ self.rows.transpose(1, 2)).square().sum(dim=2) / max(self.rows.shape[1], 1)


class MomentStore(Mapping[str, InputMoments]):
    """The moments of layers by name: in memory, or in a file, from which they are mapped while they are used."""

    def __init__(self, held: Mapping[str, InputMoments], spilled: Mapping[str, Spilled], file: SpillFile | None) -> None:
        self._held, self._spilled, self._file = dict(held), dict(spilled), file

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(moments.nbytes for moments in self._held.values())

    def __getitem__(self, name: str) -> InputMoments:
        if name in self._held:
            return self._held[name]
        assert self._file is not None
        place = self._spilled[name]
        with self._file.mapped(place) as matrix:
            return InputMoments(matrix if place.device.type == "cpu" else matrix.to(place.device))

    def __iter__(self) -> Iterator[str]:
        return iter((*self._held, *self._spilled))

    def __len__(self) -> int:
        return len(self._held) + len(self._spilled)


def second_moments(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batches: Sequence[Any],
    *,
    centered: bool,
    largest: int = LARGEST_MATRIX,
    limit: int = 2**62,
    file: SpillFile | None = None,
) -> MomentStore:
    """Return the second moments of the patches that reach each module, in one pass; with `centered` their covariance.

    At most 16,384 (or 8 K, where that is more) positions of each module are used. Where K is above `largest`, a random sample of patches
    stands for the matrix: 64 MiB of them, between 128 and 2,048. Matrices beyond `limit` bytes are summed up in `file`; where the disk is
    full, 128 patches stand for each of the rest that is larger, with a `SpillWarning`.
    """
    plan = _Plan(largest, limit, file)
    gathered = {name: plan.moments_of(module, len(batches)) for name, module in modules.items()}
    plan.warn()
    with torch.no_grad(), watched_inputs(modules, lambda name, x: gathered[name].update(x)):
        for inputs in batches:
            forward(model, inputs)
    spilled = {name: moments.place for name, moments in gathered.items() if isinstance(moments, _Matrix) and moments.place is not None}
    results = {name: moments.result(centered) for name, moments in gathered.items()}
    return MomentStore({name: moments for name, moments in results.items() if name not in spilled}, spilled, file)


class _Plan:
    """Decides how the moments of every module are held."""

    def __init__(self, largest: int, limit: int, file: SpillFile | None) -> None:
        self._largest, self._left, self._file = largest, limit, file
        self._refused: list[str] = []

    def moments_of(self, module: Any, batches: int) -> "_Matrix | _Sample":
        groups, _, size = weight_rows(module, module.weight).shape
        needed, positions = 4 * groups * size * size, max(1, max(POSITIONS, 8 * size) // max(batches, 1))
        if size > self._largest:
            rows = min(max(SAMPLE_BYTES // (4 * groups * size), FEWEST_ROWS), MOST_ROWS)
            self._left -= 4 * groups * size * rows
            return _Sample(module, max(1, -(-rows // max(batches, 1))))
        if self._file is not None and needed > self._left:
            try:
                return _Matrix(module, positions, self._file, self._file.reserve((groups, size, size), torch.float32, module.weight.device))
            except OSError as error:
                if size > FEWEST_ROWS:
                    self._refused.append(error.strerror or str(error))
                    return _Sample(module, max(1, -(-FEWEST_ROWS // max(batches, 1))))
        self._left -= needed
        return _Matrix(module, positions)

    def warn(self) -> None:
        """Say where the disk was full."""
        if self._refused:
            text = f"second moments do not fit the folder of temporary files ({self._refused[0]}): {FEWEST_ROWS} input patches stand for "
            text += f"those of {len(self._refused)} layers, which makes corrections coarser"
            warnings.warn(f"{text}; raise cache_mib, or set TMPDIR to a larger disk.", SpillWarning, stacklevel=5)


class _Matrix:
    """Sums over the patches that reach one module, in memory or in a file."""

    def __init__(self, module: nn.Module, limit: int, file: SpillFile | None = None, place: Spilled | None = None) -> None:
        self._module, self._limit = module, limit
        self._file, self.place = file, place
        self._outer: Tensor | None = None
        self._sum: Tensor | float = 0.0
        self._count = 0

    def update(self, x: Tensor) -> None:
        rows = patches(self._module, x, self._limit).to(torch.float32)
        product = rows.transpose(1, 2) @ rows
        if self._file is not None and self.place is not None:
            with self._file.mapped(self.place) as outer:
                outer.add_(product.cpu())
        else:
            self._outer = product if self._outer is None else self._outer.add_(product)
        self._sum = self._sum + rows.sum(dim=1)
        self._count += rows.shape[1]

    def result(self, centered: bool) -> InputMoments:
        mean = torch.as_tensor(self._sum) / max(self._count, 1)
        if self._file is not None and self.place is not None:
            with self._file.mapped(self.place) as outer:
                self._finish(outer, mean.cpu(), centered)
            return InputMoments()
        moments = torch.zeros(()) if self._outer is None else self._outer
        return InputMoments(self._finish(moments, mean, centered))

    def _finish(self, outer: Tensor, mean: Tensor, centered: bool) -> Tensor:
        """Turn sums into means, in place."""
        outer /= max(self._count, 1)
        if centered and mean.dim():
            for first in range(0, outer.shape[1], _BLOCK):
                block = slice(first, first + _BLOCK)
                outer[:, block] -= mean[:, block, None] * mean[:, None, :]
        return outer


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
