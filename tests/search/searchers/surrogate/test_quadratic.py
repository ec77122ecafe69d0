"""The second-order model recovers additive and pairwise terms."""

import numpy as np

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
