"""K-means codebooks: the exact optimum by brute force, Lloyd's iteration against scikit-learn, empty clusters, ties."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core.codecs import codebook
from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.kernels import kmeans
from quant_core.util.errors import InputError


def inertia(points: np.ndarray, centres: np.ndarray) -> float:
    return float((np.abs(points[:, None] - centres[None, :]).min(axis=1) ** 2).sum())


def brute_force(points: np.ndarray, k: int) -> float:
    """The least inertia over every way to cut the sorted points into k runs."""
    x, best = np.sort(points), np.inf
    for cuts in itertools.combinations(range(1, len(x)), k - 1):
        parts = np.split(x, cuts)
        best = min(best, sum(((part - part.mean()) ** 2).sum() for part in parts))
    return float(best)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-100, 100, width=16), min_size=4, max_size=9), st.integers(1, 2))
def test_small_sets_get_the_exact_optimum(values: list[float], bits: int) -> None:
    points = np.array(values)
    books = codebook.centres(points.astype(np.float32).reshape(1, -1), 2**bits)[0]
    assert np.all(np.diff(books) >= 0)
    assert inertia(points, books) <= brute_force(points, 2**bits) * (1 + 1e-9) + 1e-9


def test_lloyd_is_that_of_scikit_learn_from_the_same_start() -> None:
    from sklearn.cluster import KMeans

    points = np.sort(np.random.default_rng(0).standard_normal(5000))
    start = np.linspace(points[0], points[-1], 16)
    for steps in (1, 5, 50):
        ours = start.copy()
        kmeans.lloyd(points, ours, steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = KMeans(16, init=start.reshape(-1, 1), n_init=1, tol=0, max_iter=steps).fit(points.reshape(-1, 1))
        assert ours == pytest.approx(np.sort(theirs.cluster_centers_[:, 0]), abs=1e-9)


def test_lloyd_never_gets_worse_and_stays_near_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.sort(np.random.default_rng(1).standard_normal(4000))
    book, errors = np.linspace(-0.1, 0.1, 16), []
    for _ in range(30):
        kmeans.lloyd(points, book, 1)
        errors.append(inertia(points, book))
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(errors))
    units = points.astype(np.float32).reshape(1, -1)
    exact = inertia(points, codebook.centres(units, 16)[0])
    monkeypatch.setattr(codebook, "EXACT_STEPS", 0)
    approximate = inertia(points, codebook.centres(units, 16)[0])
    assert exact <= approximate <= 1.1 * exact


def test_an_empty_cluster_is_moved_to_where_it_helps() -> None:
    points = np.array([0.0, 0.1, 10.0, 10.1, 20.0])
    book = np.array([0.05, 10.0, 500.0])
    kmeans.lloyd(points, book, 50)
    assert book == pytest.approx([0.05, 10.05, 20.0])


def test_few_distinct_values_are_kept_exactly() -> None:
    x = torch.tensor([[0.25, -1.0, 0.25, 3.0], [3.0, 3.0, -1.0, 0.25]])
    encoded = encode(x, "kmeans3:tensor")
    assert encoded.codebook is not None
    assert encoded.codebook[0, :3].tolist() == [-1.0, 0.25, 3.0]
    assert encoded.codebook[0, 3:].unique().tolist() == [3.0]
    assert torch.equal(fake_quantize(x, "kmeans3:tensor"), x)


def test_a_value_half_way_takes_the_lower_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "centres", lambda units, k, *_: np.tile([0.0, 1.0], (len(units), 1)))
    assert encode(torch.tensor([[0.5, 0.75, 0.25]]), "kmeans1").codes.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("steps", [2**27, 0])
def test_centres_ascend_whatever_the_magnitudes(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codebook, "EXACT_STEPS", steps)
    bits = np.random.default_rng(5).integers(0, 2**32, size=(40, 60), dtype=np.uint32)
    units = np.nan_to_num(bits.view(np.float32), nan=1.0, posinf=1.0, neginf=-1.0)
    books = codebook.centres(units, 8)
    assert (np.diff(books, axis=1) >= 0).all()
    assert (books[:, 0] >= units.min(axis=1)).all()
    assert (books[:, -1] <= units.max(axis=1)).all()


@pytest.mark.parametrize("kind", ["normal", "laplace", "cauchy", "ties"])
@pytest.mark.parametrize("k", [4, 64])
def test_long_rows_are_within_half_a_percent_of_the_optimum(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    draw = {"normal": rng.standard_normal, "laplace": rng.laplace, "cauchy": rng.standard_cauchy, "ties": rng.standard_normal}[kind]
    x = draw(size=60_000).astype(np.float32)
    x = np.round(x, 3) if kind == "ties" else x
    points, best = np.sort(x)[None].astype(np.float64), np.empty((1, k))
    kmeans.optimal_books(points, best)
    monkeypatch.setattr(codebook, "EXACT_STEPS", 0)
    assert inertia(points[0], codebook.centres(x[None], k)[0]) <= 1.001 * inertia(points[0], best[0])
    monkeypatch.setattr(codebook, "SORTED", 1000)
    assert inertia(points[0], codebook.centres(x[None], k)[0]) <= 1.005 * inertia(points[0], best[0])


def test_channel_groups_share_a_codebook() -> None:
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 50.0, 50.0, 0.01]).unsqueeze(1)
    encoded = encode(x, "kmeans2:group2")
    assert encoded.codebook is not None
    assert encoded.codebook.shape == (3, 4)
    y = fake_quantize(x, "kmeans2:group2")
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5)):
        assert torch.equal(y[rows], fake_quantize(x[rows], "kmeans2:tensor"))
    assert torch.equal(fake_quantize(x, "kmeans2:channel")[3:4], fake_quantize(x[3:4], "kmeans2:tensor"))


def test_bounds_have_no_meaning() -> None:
    with pytest.raises(InputError, match="bounds given for kmeans4"):
        fake_quantize(torch.ones(2, 2), "kmeans4:tensor", bounds=(torch.zeros(()), torch.ones(())))
