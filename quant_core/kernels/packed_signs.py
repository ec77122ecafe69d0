"""Binary arithmetic: +-1 values packed 64 to a word, multiplied by XNOR and popcount (Rastegari et al., XNOR-Net, ECCV 2016, eq. 8).

A sign is one bit, 1 for x >= 0 (so sign(0) = +1). With K signs, dot = K - 2 popcount(a ^ b); the bits that fill the last word are
zero in both operands and cancel. Results are exact int32. Free of torch: arrays come and go as NumPy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quant_core.util.errors import InputError

WORD_BITS = 64
_BYTE = 8

Array = NDArray[Any]
Words = NDArray[np.uint64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class PackedConv:
    """Kernels of a binary convolution.

    Attributes:
        words: [O, W] the signs of a kernel, channels innermost, filled to whole bytes per tap and to whole words.
        tap_sums: [O, kh kw] sums of a kernel's signs over its channels, which correct the border.
        channels: input channels.
        kernel: (kh, kw).
    """

    words: Words
    tap_sums: Ints
    channels: int
    kernel: tuple[int, int]


def pack_signs(x: Array) -> Words:
    """Pack the signs of `x` [..., K] into words [..., ceil(K / 64)].

    Raises:
        InputError: `x` has no axis, is neither of floats nor of signed integers, or holds NaN, which has no sign.
    """
    if x.ndim == 0 or x.shape[-1] == 0:
        raise InputError(f"array of shape {x.shape} given; signs are packed along the last axis, which needs 1 element or more.")
    return _words(_sign_bytes(x))


def xnor_gemm(a_words: Words, b_words: Words, length: int) -> Ints:
    """Return [M, N] int32: the dot products of `length` signs of rows of a [M, W] and rows of b [N, W], W = ceil(length / 64).

    Raises:
        InputError: the shapes do not fit each other or `length`.
    """
    needed = -(-length // WORD_BITS)
    if a_words.ndim != 2 or b_words.ndim != 2 or {a_words.shape[1], b_words.shape[1]} != {needed} or length < 1:
        raise InputError(f"words of shape {a_words.shape} and {b_words.shape} given; {length} signs need [M, {needed}] and [N, {needed}].")
    return _product(a_words, b_words, length)


def binary_linear(x_signs: Array, w_signs: Array) -> Ints:
    """Return sign(x) @ sign(w).T as int32 [..., N], for x [..., K] and w [N, K]; only the signs of both matter.

    Raises:
        InputError: the shapes do not fit, or an array holds NaN.
    """
    if w_signs.ndim != 2 or x_signs.shape[-1:] != w_signs.shape[1:]:
        raise InputError(f"x of shape {x_signs.shape} and w of shape {w_signs.shape} given; [..., K] and [N, K] are needed.")
    rows, count = x_signs.shape[:-1], w_signs.shape[1]
    words = pack_signs(x_signs.reshape(-1, count))
    return xnor_gemm(words, pack_signs(w_signs), count).reshape(*rows, len(w_signs))


def binary_conv2d(
    x_signs: Array,
    w_signs: Array,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Ints:
    """Return conv2d(sign(x), sign(w)) as int32 [B, O, H', W'], zero-padded, for x [B, C, H, W] and w [O, C / groups, kh, kw].

    A zero is no sign: the border is filled with -1, and what those products add, minus the sum of the weight signs that meet
    the border, is taken out again.

    Raises:
        InputError: the shapes do not fit, the kernel is larger than the padded map, or an array holds NaN.
    """
    _check_conv(x_signs, w_signs, padding, dilation, groups)
    parts = [
        conv2d_packed(x, pack_conv(w), stride, padding, dilation)
        for x, w in zip(np.split(x_signs, groups, axis=1), np.split(w_signs, groups, axis=0), strict=True)
    ]
    return np.concatenate(parts, axis=1) if groups > 1 else parts[0]


def _check_conv(x: Array, w: Array, padding: tuple[int, int], dilation: tuple[int, int], groups: int) -> None:
    fits = x.ndim == w.ndim == 4 and groups > 0 and x.shape[1] == w.shape[1] * groups and len(w) % groups == 0
    if not fits:
        raise InputError(
            f"x of shape {x.shape} and w of shape {w.shape} given; [B, C, H, W] and [O, C / groups, kh, kw] are needed, groups {groups}."
        )
    for axis in (0, 1):
        reach, size = (w.shape[2 + axis] - 1) * dilation[axis] + 1, x.shape[2 + axis] + 2 * padding[axis]
        if reach > size:
            raise InputError(f"kernel {w.shape[2:]} with dilation {dilation} covers {reach} inputs; the padded map has {size}.")


def pack_conv(w_signs: Array) -> PackedConv:
    """Pack the kernels w [O, C, kh, kw] of a convolution once, for `conv2d_packed`."""
    out, channels, *kernel = w_signs.shape
    words = _words(_sign_bytes(np.moveaxis(w_signs, 1, -1)).reshape(out, -1))
    sums = np.where(w_signs >= 0, 1, -1).sum(axis=1, dtype=np.int32).reshape(out, -1)
    return PackedConv(words, sums, channels, (kernel[0], kernel[1]))


def conv2d_packed(x_signs: Array, weight: PackedConv, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> Ints:
    """Return `binary_conv2d` of one group with packed kernels: pack channels to bytes, gather windows, multiply, correct the border."""
    windows = _windows(_pixels(x_signs, padding), weight.kernel, stride, dilation)
    batch, height, width = windows.shape[:3]
    length, images = weight.channels * weight.kernel[0] * weight.kernel[1], (batch, height * width)
    product = _product(weight.words, _words(windows.reshape(batch * height * width, -1)), length).reshape(-1, *images)
    if any(padding):
        inside = np.zeros((1, x_signs.shape[2], x_signs.shape[3], 1))
        outside = np.pad(inside, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)), constant_values=1)  # float64: BLAS has no integers
        border = _windows(outside, weight.kernel, stride, dilation).reshape(height * width, -1)
        touched = np.flatnonzero(border.any(axis=1))
        product[:, :, touched] += (weight.tap_sums.astype(np.float64) @ border[touched].T).astype(np.int32)[:, None]
    return np.ascontiguousarray(np.moveaxis(product, 0, 1)).reshape(batch, -1, height, width)


def _pixels(x: Array, padding: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the signs of x [B, C, H, W] as bytes [B, H + 2 p, W + 2 q, ceil(C / 8)], the border -1."""
    from quant_core.kernels.xnor import pack_channels

    positive = _positive(x)
    batch, channels, height, width = x.shape
    pixels = np.zeros((batch, height + 2 * padding[0], width + 2 * padding[1], -(-channels // _BYTE)), np.uint8)
    pack_channels(np.ascontiguousarray(positive).view(np.uint8), padding[0], padding[1], pixels)
    return pixels


def _windows(x: Array, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """Return the windows [B, H', W', kh, kw, C] of x [B, H, W, C]."""
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True))
    every = sliding_window_view(x, reach, axis=(1, 2))[:, :: stride[0], :: stride[1]]
    return np.moveaxis(every[..., :: dilation[0], :: dilation[1]], 3, -1)


def _sign_bytes(x: Array) -> NDArray[np.uint8]:
    """Return the signs of x [..., K] as bytes [..., ceil(K / 8)], least bit first."""
    return np.packbits(np.ascontiguousarray(_positive(x)), axis=-1, bitorder="little")


def _positive(x: Array) -> NDArray[np.bool_]:
    """Return x >= 0, refusing what has no sign."""
    if np.issubdtype(x.dtype, np.floating) and np.isnan(x).any():
        raise InputError("an array with NaN given; NaN has no sign. Check the layer's input and weights.")
    if not np.issubdtype(x.dtype, np.signedinteger) and not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"an array of {x.dtype} given; its signs are needed, so it has to be of floats or signed integers.")
    positive: NDArray[np.bool_] = x >= 0
    return positive


def _words(data: Array) -> Words:
    """Return bytes [..., n] as words [..., ceil(n / 8)], filled with zeros."""
    lacking = -data.shape[-1] % _BYTE
    filled = np.pad(data, [*[(0, 0)] * (data.ndim - 1), (0, lacking)]) if lacking else data
    words: Words = np.ascontiguousarray(filled).view(np.uint64)
    return words


def _product(a: Words, b: Words, length: int) -> Ints:
    from quant_core.kernels.xnor import gemm

    product = np.empty((len(a), len(b)), dtype=np.int32)
    gemm(np.ascontiguousarray(a), np.ascontiguousarray(b.T), length, product)
    return product
