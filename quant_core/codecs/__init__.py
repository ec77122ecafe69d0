"""One module per number format: `encode` rows into codes and metadata, `decode` them back, list the stored fields."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_core.spec.formats import FORMATS
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError
from quant_core.util.registry import load

Bounds = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A matrix of R x C values as it is stored: codes and the metadata that turn them back into values.

    Attributes:
        codes: [R, C] uint8 (int32 above 8 bits), 0 <= code < 2^bits. Sign-magnitude for minifloats and micro-exponents.
        low: of linear formats and ternary, the integer that code 0 stands for (offset binary: integer = code + low).
        scale: float32, [R or 1, B]: one per block of a row. VSQuant: the integers of the vectors. TTQ: [R or 1, 2], (negative, positive).
        coarse: float32, [R or 1, 1]: the float scale over the scales of VSQuant and NVFP4.
        zero_point: float32 integers, the shape of `scale`; affine only.
        codebook: float32, [books, 2^bits], ascending; k-means only.
        micro: uint8, [R, ceil(C / 2)]: the micro-exponents of MX4, MX6 and MX9.
    """

    codes: Tensor
    low: int = 0
    scale: Tensor | None = None
    coarse: Tensor | None = None
    zero_point: Tensor | None = None
    codebook: Tensor | None = None
    micro: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        tensors = (self.codes, self.scale, self.coarse, self.zero_point, self.codebook, self.micro)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _zero(spec: QuantSpec) -> int:  # noqa: ARG001
    return 0


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of an `Encoded` as it lies in a packed file: name, shape, and storage (a key of `SCALE_BITS` or `u<bits>`)."""

    name: str
    shape: tuple[int, ...]
    storage: str


@dataclass(frozen=True, slots=True)
class Codec:
    """The functions of one format: from a float32 matrix of rows to an `Encoded` and back.

    Attributes:
        encode: (rows [R, C], spec, bounds or None, generator or None) -> Encoded. `rows` is finite and not empty.
        decode: (Encoded, spec) -> rows [R, C] float32, finite.
        layout: (spec, R, C) -> the fields in their order in a packed file; their bits add up to `spec.storage_bits`.
        lowest: spec -> the `low` of an `Encoded` that is read from a file.
        fused: the same values as decode(encode(rows)) in compiled loops, written to `out`, for contiguous rows on the CPU and
            rounding to nearest: (rows, spec, bounds, out) -> False where it does not apply. None: there is no such loop.
        weighted: `encode` whose clipping multiplies the squared error of every value by its importance, for `weightable` clippings:
            (rows [R, C], importance [R, C] > 0, spec, generator) -> Encoded. None: the format has no clipping to weight.
    """

    encode: Callable[[Tensor, QuantSpec, Bounds | None, torch.Generator | None], Encoded]
    decode: Callable[[Encoded, QuantSpec], Tensor]
    layout: Callable[[QuantSpec, int, int], tuple[Field, ...]]
    lowest: Callable[[QuantSpec], int] = _zero
    fused: Callable[[Tensor, QuantSpec, Bounds | None, Tensor], bool] | None = None
    weighted: Callable[[Tensor, Tensor, QuantSpec, torch.Generator | None], Encoded] | None = None


def codec(spec: QuantSpec) -> Codec:
    """Return the codec of the format of `spec`."""
    implementation = load(FORMATS[spec.format].implementation)
    if not isinstance(implementation, Codec):
        raise TypeError(f"{FORMATS[spec.format].implementation} is {type(implementation).__name__}; a Codec is needed")
    return implementation


def code_dtype(bits: int) -> torch.dtype:
    """Return the dtype that holds codes of `bits` bits."""
    return torch.uint8 if bits <= 8 else torch.int32


def code_field(spec: QuantSpec, rows: int, columns: int) -> Field:
    """Return the field of the codes."""
    return Field("codes", (rows, columns), f"u{spec.bits}")


def no_bounds(spec: QuantSpec, bounds: Bounds | None) -> None:
    """Refuse bounds where the format takes its scales from the values.

    Raises:
        InputError: bounds were given.
    """
    if bounds is not None:
        raise InputError(f"bounds given for {spec}, which takes its scales from the values; leave them out.")
