"""The 1-bit kernel is exact: against integer matrix products, and convolutions against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core.kernels.packed_signs import binary_conv2d, binary_linear, pack_signs, xnor_gemm
from quant_core.util.errors import InputError

LENGTHS = (1, 7, 31, 63, 64, 65, 127, 128, 511, 512, 576, 1000, 1025)


def signs(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1, -1).astype(np.int64)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 17), (13, 64)])
def test_the_product_of_packed_signs_is_the_integer_product(length: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(length)
    a, b = rng.standard_normal((rows, length)), rng.standard_normal((columns, length))
    product = xnor_gemm(pack_signs(a), pack_signs(b), length)
    assert product.dtype == np.int32
    np.testing.assert_array_equal(product, signs(a) @ signs(b).T)


@pytest.mark.parametrize("length", LENGTHS)
def test_signs_lie_64_to_a_word_least_bit_first(length: int) -> None:
    x = np.random.default_rng(length).standard_normal((2, length))
    words = pack_signs(x)
    assert words.shape == (2, -(-length // 64))
    for row in range(2):
        assert words[row].tolist() == [sum(1 << i for i, v in enumerate(x[row, k : k + 64]) if v >= 0) for k in range(0, length, 64)]


def test_zero_and_minus_zero_are_positive_and_only_signs_matter() -> None:
    x = np.array([[0.0, -0.0, 3.0, -1e-9]])
    assert pack_signs(x).tolist() == [[0b0111]]
    assert pack_signs(np.array([[0, 5, -1]])).tolist() == [[0b011]]
    assert binary_linear(x, np.array([[1.0, 1.0, 1.0, 1.0], [2.0, -2.0, 2.0, -2.0]])).tolist() == [[2, 2]]


def test_linear_keeps_the_leading_axes() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 5, 70)), rng.standard_normal((9, 70))
    product = binary_linear(x, w)
    assert product.shape == (2, 3, 5, 9)
    np.testing.assert_array_equal(product, signs(x) @ signs(w).T)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.sampled_from([1, 1, 2, 3]),
    channels=st.sampled_from([1, 3, 8, 20, 64, 70]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 99),
)
def test_convolution_is_that_of_the_float_simulation(
    groups: int,
    channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, channels * groups, 7, 8)), rng.standard_normal((5 * groups, channels, *kernel))
    product = binary_conv2d(x, w, stride, padding, dilation, groups)
    left, right = (torch.from_numpy(signs(values)).double() for values in (x, w))
    expected = torch.nn.functional.conv2d(left, right, None, stride, padding, dilation, groups)
    assert product.dtype == np.int32
    np.testing.assert_array_equal(product, expected.numpy().astype(np.int64))


def test_depthwise_convolution_is_exact() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 6, 5, 5)), rng.standard_normal((6, 1, 3, 3))
    expected = torch.nn.functional.conv2d(torch.from_numpy(signs(x)).double(), torch.from_numpy(signs(w)).double(), padding=1, groups=6)
    np.testing.assert_array_equal(binary_conv2d(x, w, padding=(1, 1), groups=6), expected.numpy())


def test_what_does_not_fit_is_refused() -> None:
    words = pack_signs(np.ones((2, 65)))
    with pytest.raises(InputError, match=r"64 signs need \[M, 1\] and \[N, 1\]"):
        xnor_gemm(words, words, 64)
    with pytest.raises(InputError, match=r"x of shape \(2, 4\) and w of shape \(3, 5\) given"):
        binary_linear(np.ones((2, 4)), np.ones((3, 5)))
    with pytest.raises(InputError, match="NaN has no sign"):
        pack_signs(np.array([1.0, np.nan]))
    with pytest.raises(InputError, match="an array of bool given"):
        pack_signs(np.array([True, False]))
    with pytest.raises(InputError, match="needs 1 element or more"):
        pack_signs(np.empty((3, 0)))
    with pytest.raises(InputError, match=r"x of shape \(1, 4, 5, 5\) and w of shape \(4, 4, 3, 3\) given"):
        binary_conv2d(np.ones((1, 4, 5, 5)), np.ones((4, 4, 3, 3)), groups=2)
    with pytest.raises(InputError, match=r"covers 7 inputs; the padded map has 5"):
        binary_conv2d(np.ones((1, 4, 5, 5)), np.ones((4, 4, 3, 3)), dilation=(3, 3))
