"""Quantized weights within a limit of bytes: decoded values while there is room, codes at their bits always, on disk if need be."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.cache import CacheCounts
from quant_core.util.pages import lasting
from quant_core.util.spill import Spilled, SpillFile, SpillWarning

Key = tuple[str, QuantSpec]
_FIELDS = ("scale", "coarse", "zero_point", "codebook", "micro")


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A layer's weight as it computes with it.

    Attributes:
        weight: the values that the codes stand for, or the float ones.
        bias: the bias that goes with it, or None.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class PackedWeight:
    """The codes of a weight at 1, 2, 4, 8, 16 or 32 bits, the least that hold the largest, its metadata and its bias.

    Args:
        encoded: as `quant_core.codecs.quantize.encode` gives it.
        bias: the bias that goes with the weight, or None.
    """

    def __init__(self, encoded: Encoded, bias: Tensor | None) -> None:
        self._shape, self._dtype = tuple(encoded.codes.shape), encoded.codes.dtype
        self._low, self._bits = encoded.low, _bits_of(encoded.codes)
        parts = {name: getattr(encoded, name) for name in _FIELDS} | {"codes": pack_codes(encoded.codes, self._bits), "bias": bias}
        self._parts: dict[str, Tensor | Spilled] = {name: part for name, part in parts.items() if part is not None}

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(part.nbytes for part in self._parts.values() if isinstance(part, Tensor))

    def spill(self, file: SpillFile) -> None:
        """Move everything to disk.

        Raises:
            OSError: the disk is full.
        """
        self._parts = {name: file.write(part) if isinstance(part, Tensor) else part for name, part in self._parts.items()}

    def bias(self, file: SpillFile) -> Tensor | None:
        """Return the bias."""
        return self._part("bias", file)

    def encoded(self, file: SpillFile) -> Encoded:
        """Return the codes and the metadata, as they were."""
        packed = self._part("codes", file)
        assert packed is not None
        codes = unpack_codes(packed, self._bits, self._shape, self._dtype)
        return Encoded(codes, self._low, *(self._part(name, file) for name in _FIELDS))

    def _part(self, name: str, file: SpillFile) -> Tensor | None:
        part = self._parts.get(name)
        return file.read(part) if isinstance(part, Spilled) else part


class WeightStore:
    """The quantized weights of a sweep, by layer and spec. What was encoded is not encoded again.

    At most `limit` bytes are held in memory. Beyond it, decoded values are dropped, those longest unused first (they are decoded again
    when they are needed); where codes alone are more than that, they move to `file`.

    Attributes:
        counts: hits are lookups that encode nothing; evictions are values dropped and codes moved to disk.

    Args:
        limit: bytes.
        file: takes what does not fit.
    """

    def __init__(self, limit: int, file: SpillFile) -> None:
        self.counts = CacheCounts()
        self._limit, self._file = limit, file
        self._values: OrderedDict[Key, QuantizedWeight] = OrderedDict()
        self._codes: dict[Key, PackedWeight] = {}
        self._resident: OrderedDict[Key, PackedWeight] = OrderedDict()
        self._code_bytes, self._full = 0, False

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process has all codes, and decodes them anew."""
        counts = replace(self.counts, bytes=self._code_bytes)
        return self.__dict__ | {"_values": OrderedDict(), "counts": counts}

    @property
    def limit(self) -> int:
        """The limit, in bytes."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._trim()

    def weight(self, key: Key, make: Callable[[], tuple[Encoded, QuantizedWeight]], decode: Callable[[Encoded], Tensor]) -> QuantizedWeight:
        """Return the weight under `key`; it must not be written to.

        Args:
            key: layer and spec.
            make: encodes it.
            decode: codes -> values.
        """
        if key in self._values:
            self.counts.hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        if key in self._codes:
            self.counts.hits += 1
            packed = self._codes[key]
            value = QuantizedWeight(decode(packed.encoded(self._file)), packed.bias(self._file))
        else:
            self.counts.misses += 1
            encoded, value = make()
            self._add_codes(key, PackedWeight(encoded, value.bias))
        if value.nbytes + self._code_bytes <= self._limit:
            if self.counts.bytes + value.nbytes <= self._limit:  # it stays; else others go, and it may soon
                with lasting():
                    value = replace(value, weight=value.weight.clone())
            self._values[key] = value
            self.counts.bytes += value.nbytes
        self._trim()
        return value

    def encoded(self, key: Key, make: Callable[[], tuple[Encoded, QuantizedWeight]]) -> Encoded:
        """Return the codes and the metadata under `key`; arguments as for `weight`."""
        if key in self._codes:
            self.counts.hits += 1
            return self._codes[key].encoded(self._file)
        self.counts.misses += 1
        encoded, value = make()
        self._add_codes(key, PackedWeight(encoded, value.bias))
        self._trim()
        return encoded

    def _add_codes(self, key: Key, packed: PackedWeight) -> None:
        self._codes[key] = self._resident[key] = packed
        self._code_bytes += packed.nbytes
        self.counts.bytes += packed.nbytes

    def _trim(self) -> None:
        """Keep the limit: values go first, then codes."""
        while self.counts.bytes > self._limit and self._values:
            _, value = self._values.popitem(last=False)
            self.counts.bytes -= value.nbytes
            self.counts.evictions += 1
        while self.counts.bytes > self._limit and self._resident:
            key, packed = self._resident.popitem(last=False)
            self._code_bytes -= packed.nbytes
            self.counts.bytes -= packed.nbytes
            self.counts.evictions += 1
            try:
                packed.spill(self._file)
            except OSError as error:
                del self._codes[key]
                self._warn(error)
        self.counts.spilled = self._file.nbytes

    def _warn(self, error: OSError) -> None:
        if not self._full:
            self._full = True
            reason = error.strerror or str(error)
            text = f"quantized weights do not fit the folder of temporary files ({reason}) and are encoded again when needed"
            warnings.warn(f"{text}; raise cache_mib, or set TMPDIR to a larger disk.", SpillWarning, stacklevel=4)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Return `codes`, each below 2^bits, at `bits` (1, 2, 4, 8, 16 or 32) bits each: whole bytes of a flat tensor."""
    if bits >= 8:
        return codes.to({8: torch.uint8, 16: torch.int16, 32: torch.int32}[bits])
    per_byte = 8 // bits
    flat = codes.reshape(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % per_byte)).view(-1, per_byte)
    packed = flat[:, 0].clone()
    for place in range(1, per_byte):
        packed |= flat[:, place] << (bits * place)
    return packed


def unpack_codes(packed: Tensor, bits: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the codes of `pack_codes` in `shape` and `dtype`."""
    if bits >= 8:
        codes = packed.to(dtype)
        return codes & 0xFFFF if bits == 16 else codes
    per_byte = 8 // bits
    flat = torch.empty((len(packed), per_byte), dtype=torch.uint8, device=packed.device)
    for place in range(per_byte):
        flat[:, place] = (packed >> (bits * place)) & (2**bits - 1)
    return flat.reshape(-1)[: shape[0] * shape[1]].reshape(shape).to(dtype)


def _bits_of(codes: Tensor) -> int:
    needed = int(codes.max()).bit_length() if codes.numel() else 1
    return next(bits for bits in (1, 2, 4, 8, 16, 32) if bits >= needed)
