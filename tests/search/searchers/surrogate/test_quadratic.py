"""The second-order model recovers additive and pairwise terms."""

import numpy as np
import pytest

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


def test_many_dimensions_have_the_model_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(4, size=(30, quadratic.MANY + 1))
    prior = tuple(rng.random(4) for _ in range(points.shape[1]))
    errors = points[:, 0] + rng.random(30)
    answers = [fit(points[:20], errors[:20], prior).predict(points[20:])]
    monkeypatch.setattr(quadratic, "MANY", points.shape[1])
    answers.append(fit(points[:20], errors[:20], prior).predict(points[20:]))
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)
