import pytest
import torch

from quant_core.transforms.maps import ChannelMap, hadamard, random_rotation


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 44, 64, 96, 384])
def test_hadamard_matrices_have_orthogonal_rows_of_signs(size: int) -> None:
    matrix = hadamard(size)
    assert matrix is not None
    assert set(matrix.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(matrix @ matrix.t(), size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 6, 36, 172])
def test_sizes_without_a_known_hadamard_matrix(size: int) -> None:
    assert hadamard(size) is None


@pytest.mark.parametrize("keeps_ones", [False, True])
@pytest.mark.parametrize("size", [2, 24, 36, 64])
def test_rotations_are_orthogonal_seeded_and_keep_ones_if_asked(size: int, keeps_ones: bool) -> None:
    matrix = random_rotation(size, 0, keeps_ones=keeps_ones)
    eye, ones = torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.t(), eye)
    assert torch.equal(matrix, random_rotation(size, 0, keeps_ones=keeps_ones))
    assert size == 2 or not torch.allclose(matrix, random_rotation(size, 1, keeps_ones=keeps_ones))
    assert torch.allclose(ones @ matrix, ones) == keeps_ones


def test_a_rotation_that_keeps_ones_commutes_with_the_mean_over_channels() -> None:
    matrix, x = random_rotation(64, 3, keeps_ones=True), torch.randn(5, 64, dtype=torch.float64)
    torch.testing.assert_close((x @ matrix).mean(dim=1), x.mean(dim=1))
    outlier = torch.zeros(64, dtype=torch.float64).index_fill(0, torch.tensor(7), 1.0) @ matrix
    assert float(outlier.abs().max()) < 0.5  # an outlying channel is spread


def test_a_map_of_blocks_is_the_block_diagonal_matrix_along_any_axis() -> None:
    matrix = random_rotation(4, 0)
    x = torch.randn(3, 12, 5, dtype=torch.float64)
    whole = torch.block_diag(matrix, matrix, matrix)
    torch.testing.assert_close(ChannelMap(4, matrix, whole=False).apply(x, 1), torch.einsum("ncx,cd->ndx", x, whole))
    assert ChannelMap(4, matrix, whole=False).fits(12)
    assert not ChannelMap(4, matrix).fits(12)
