"""The second moments of a layer's input patches over calibration data: in memory or in a file, exact or by a sample."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.cutting import parts
from quant_core.network.forward import forward, watched_inputs
from quant_core.network.patches import bounded_patches, weight_rows
from quant_core.util.pages import lasting
from quant_core.util.spill import Spilled, SpillFile, SpillWarning

POSITIONS = 16_384
LARGEST_MATRIX = 4096
"""Inputs of a patch up to which the K x K matrix is held: 64 MiB."""
SAMPLE_BYTES, FEWEST_ROWS, MOST_ROWS = 2**26, 128, 2048
_BLOCK, _PIECE = 512, 2**25


@dataclass(frozen=True, eq=False)
class InputMoments:
    """The second moments M of a layer's input patches over the calibration data, or their covariance.

    Attributes:
        matrix: [groups, K, K], exact; None where there are fewer patches than K / 2, or K is too large to hold it.
        rows: [groups, n, K], the patches or a sample of them (less their mean, for a covariance) in its place: M is their mean outer
            product.
    """

    matrix: Tensor | None = None
    rows: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(part.nbytes for part in (self.matrix, self.rows) if part is not None)

    def diagonal(self) -> Tensor:
        """Return diag M, [groups, K] float64."""
        if self.matrix is not None:
            return self.matrix.diagonal(dim1=1, dim2=2).double()
        assert self.rows is not None
        return self.rows.double().square().mean(dim=1)

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


@dataclass(frozen=True, slots=True)
class _OnDisk:
    """Moments in a file: the matrix, or the rows."""

    place: Spilled
    are_rows: bool


class MomentStore(Mapping[str, InputMoments]):
    """The moments of layers by name: in memory, or in a file, from which they are mapped while they are used."""

    def __init__(self, moments: "Mapping[str, InputMoments | _OnDisk]", file: SpillFile | None) -> None:
        self._moments, self._file = dict(moments), file

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(moments.nbytes for moments in self._moments.values() if isinstance(moments, InputMoments))

    def __getitem__(self, name: str) -> InputMoments:
        moments = self._moments[name]
        if isinstance(moments, InputMoments):
            return moments
        assert self._file is not None
        with self._file.mapped(moments.place) as stored:
            part = stored if moments.place.device.type == "cpu" else stored.to(moments.place.device)
        return InputMoments(rows=part) if moments.are_rows else InputMoments(part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)


def second_moments(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batches: Sequence[Any],
    *,
    centered: bool,
    largest: int = LARGEST_MATRIX,
    limit: int = 2**62,
    file: SpillFile | None = None,
    at_once: int = 0,
) -> MomentStore:
    """Return the second moments of the patches that reach each module, in one pass; with `centered` their covariance.

    At most 16,384 (or 8 K, where that is more) positions of each module are used. Where K is above `largest`, a random sample of patches
    stands for the matrix: 64 MiB of them, between 128 and 2,048. Matrices beyond `limit` bytes are summed up in `file`; where the disk is
    full, 128 patches stand for each of the rest that is larger, with a `SpillWarning`. At most `at_once` examples run at once (0: a batch);
    the positions are those of the batch.
    """
    plan = _Plan(largest, limit, file)
    gathered = {name: plan.moments_of(module, len(batches)) for name, module in modules.items()}
    plan.warn()
    place = (0, 1, 1)
    with torch.no_grad(), watched_inputs(modules, lambda name, x: gathered[name].update(x, place)):
        for inputs in batches:
            for part in parts(inputs, at_once):
                place = (part.first, part.count, part.total)
                forward(model, part.inputs)
    return MomentStore({name: moments.result(centered) for name, moments in gathered.items()}, file)


def gatherers(module: nn.Module, count: int, batches: int) -> "list[_Matrix | _Sample]":
    """Return `count` empty sums of the patches that reach a module, `batches` batches each: `update(x)`, then `result(centered)`."""
    return [_Plan(LARGEST_MATRIX, 2**62, None).moments_of(module, batches) for _ in range(count)]


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
    """The patches that reach one module while they are few, then sums over them; in memory or in a file.

    Up to K / 2 patches of a layer without groups are kept as they are: exact, smaller than the K x K matrix, and cheaper to multiply by.
    """

    def __init__(self, module: nn.Module, limit: int, file: SpillFile | None = None, place: Spilled | None = None) -> None:
        groups, _, size = weight_rows(module, module.get_parameter("weight")).shape
        self._module, self._limit, self._most = module, limit, size // 2 if groups == 1 else 0
        self._file, self._place = file, place
        self._held: list[Tensor] | None = []  # None: summed
        self._outer: Tensor | None = None
        self._sum: Tensor | float = 0.0
        self._count = 0

    def update(self, x: Tensor, part: tuple[int, int, int] = (0, 1, 1)) -> None:
        for rows in bounded_patches(self._module, x, self._limit, part):
            self._take(rows.to(torch.float32))

    def _take(self, rows: Tensor) -> None:
        if self._held is not None and self._count + rows.shape[1] > self._most:
            earlier, self._held = self._held, None
            for held in earlier:
                self._add(held)
        if self._held is None:
            self._add(rows)
        else:
            with lasting():
                self._held.append(rows.clone())
        self._sum = self._sum + rows.sum(dim=1)
        self._count += rows.shape[1]

    def _add(self, rows: Tensor) -> None:
        with torch.autocast(rows.device.type, enabled=False):  # hooks run within the network's own autocast
            product = rows.transpose(1, 2) @ rows
        if self._file is not None and self._place is not None:
            with self._file.mapped(self._place) as outer:
                outer.add_(product.cpu())
        else:
            with lasting():
                self._outer = product.clone() if self._outer is None else self._outer.add_(product)

    def result(self, centered: bool) -> "InputMoments | _OnDisk":
        if self._held:
            rows = torch.cat(self._held, dim=1)
            self._held.clear()
            rows = rows.sub_(rows.mean(dim=1, keepdim=True)) if centered else rows
            if self._file is None or self._place is None:
                return InputMoments(rows=rows)
            place = replace(self._place, shape=tuple(rows.shape))
            with self._file.mapped(place) as target:
                target.copy_(rows)
            return _OnDisk(place, are_rows=True)
        mean = torch.as_tensor(self._sum) / max(self._count, 1)
        if self._file is not None and self._place is not None:
            with self._file.mapped(self._place) as outer:
                self._finish(outer, mean.cpu(), centered)
            return _OnDisk(self._place, are_rows=False)
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

    def update(self, x: Tensor, part: tuple[int, int, int] = (0, 1, 1)) -> None:
        self._rows += [rows.to(torch.float32).clone() for rows in bounded_patches(self._module, x, self._limit, part)]

    def result(self, centered: bool) -> InputMoments:
        if not self._rows:
            return InputMoments(rows=torch.zeros(1, 0, 1))
        rows = torch.cat(self._rows, dim=1)
        self._rows.clear()
        return InputMoments(rows=rows.sub_(rows.mean(dim=1, keepdim=True)) if centered else rows)
