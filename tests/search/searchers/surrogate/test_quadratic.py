"""The second-order model recovers additive and pairwise terms."""

import numpy as np

from search.searchers.surrogate import quadratic
from search.searchers.surrogate.quadratic import fit


def test_the_second_order_model_recovers_a_function_of_pairs() -> None:
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(4, size=(300, 5)), axis=0)
    errors = 0.1 * points[:, 0] + 0.3 * (points[:, 1] == points[:, 2]) - 0.2 * points[:, 3]
    prior = tuple(np.zeros(4) for _ in range(5))
    model = fit(points[:200], errors[:200], prior)
    mean, deviation = model.predict(points[200:])
    assert float(np.corrcoef(mean, errors[200:])[0, 1]) > 0.98
    assert (deviation > 0).all()
    linear, pairs = model.terms()
    total = sum(linear[d][points[200:, d]] for d in range(5))
    total = total + sum(table[points[200:, d], points[200:, e]] for (d, e), table in pairs.items())
    assert float(np.ptp(total - mean)) < 1e-9  # the tables are the model's mean, up to a constant


def test_products_sum_the_correlations() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(5, size=(n, quadratic.MANY + 1)) for n in (7, 4))
    distance = np.abs(a[:, None, :] - b[None, :, :])
    for length in (1.0, 0.5):
        np.testing.assert_allclose(quadratic._inner(a, b, length), np.exp(-distance / length).sum(axis=2), rtol=1e-12)
    dimensions, near = a.shape[1], np.exp(-distance / quadratic.LENGTH)
    pairs = (near.sum(axis=2) ** 2 - (near**2).sum(axis=2)) / (dimensions * (dimensions - 1))
    for part, expected in zip(quadratic._parts(a, b), (near.mean(axis=2), pairs), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)
