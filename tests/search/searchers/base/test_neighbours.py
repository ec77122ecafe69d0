"""Points near a good one: the different ones of many, in the order of numpy."""

import numpy as np

from search.searchers.base.neighbours import distinct


def test_different_points_come_in_the_order_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for dimensions, choices in ((3, 3), (60, 2), (4, 300)):
        points = rng.integers(choices, size=(200, dimensions))
        points[50:100] = points[:50]
        assert np.array_equal(distinct(points), np.unique(points, axis=0))
