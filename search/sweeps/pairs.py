"""What pairs of layers add to a cost, as pairs of the sites of a problem."""

from collections.abc import Mapping, Sequence

import numpy as np

from hw_models.models import Pair
from search.problem.problem import FloatArray, IntArray, SitePair

Placed = Mapping[int, tuple[int, IntArray]]
"""Position of a layer -> its site, and the layer's choice at every joint choice [J] of the site."""


def paired(
    pairs: Sequence[Pair], placed: Placed, site_cost: Mapping[str, list[FloatArray]], base: dict[str, float]
) -> dict[str, tuple[SitePair, ...]]:
    """Return metric -> pairs of sites whose entries are >= 0; what is the same for all choices of one site is added to `site_cost`.

    The sums over sites alone are then lower bounds of the costs. Both arguments `site_cost` and `base` are changed.

    Args:
        pairs: of the cost table.
        placed: layers with a free choice; the others have their first one.
        site_cost: metric -> per site [K_d for d in site].
        base: metric -> cost of the layers without a free choice.
    """
    joined: dict[tuple[str, int, int], FloatArray] = {}
    for pair in pairs:
        (s, first), (t, second) = (placed.get(place, (-1, np.zeros(1, dtype=np.int64))) for place in (pair.first, pair.second))
        tables = site_cost[pair.metric]
        if s == t and s >= 0:
            tables[s] = tables[s] + pair.added[first, second].reshape(tables[s].shape)
            continue
        added = pair.added[np.ix_(first, second)]
        if s < 0 or t < 0:
            _add_single(pair.metric, max(s, t), added.ravel(), tables, base)
            continue
        key, added = ((pair.metric, s, t), added) if s < t else ((pair.metric, t, s), added.T)
        joined[key] = joined.get(key, np.zeros_like(added)) + added
    rest: dict[str, list[SitePair]] = {}
    for (metric, s, t), added in joined.items():
        low = added.min(axis=1)
        site_cost[metric][s] = site_cost[metric][s] + low.reshape(site_cost[metric][s].shape)
        if (added != low[:, None]).any():
            rest.setdefault(metric, []).append(SitePair(s, t, added - low[:, None]))
    return {metric: tuple(rows) for metric, rows in rest.items()}


def _add_single(metric: str, site: int, added: FloatArray, tables: list[FloatArray], base: dict[str, float]) -> None:
    """Add the costs of a pair of a free layer and a fixed one, or of two fixed ones."""
    if site < 0:
        base[metric] += float(added[0])
    else:
        tables[site] = tables[site] + added.reshape(tables[site].shape)
