"""The interface between a sweep and its searcher: `Problem`, `Trial` and the `Searcher` protocol. Free of heavy imports."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Values = tuple[int, ...]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SitePair:
    """What the joint choices of two sites add to a cost.

    Attributes:
        first, second: the sites.
        added: [J of the first, J of the second] >= 0, J the joint choices of a site, the last dimension running fastest.
    """

    first: int
    second: int
    added: FloatArray


@dataclass(frozen=True, eq=False)
class Problem:
    """A finite allocation problem: pick one of K_d choices in each of D dimensions; all objectives are minimized.

    Costs are known before a policy is evaluated: a sum (or, for peak metrics, a max) over sites of a table entry.
    The first objective, `error`, is measured by evaluating. Sensitivities are estimates of it, one choice at a time.

    Attributes:
        cardinalities: choices per dimension, [D]. Within a dimension choices are ordered from cheap to expensive.
        objectives: names; "error" is measured, every other one is a key of `site_cost`.
        limits: metric -> upper limit that a returned policy must keep.
        sites: partition of the dimensions into groups that are costed jointly (the weight and activation of one layer).
        site_cost: metric -> per site an array of shape [K_d for d in site].
        base_cost: metric -> cost of the layers that are not searched.
        peak: metrics that are a max over sites instead of a sum.
        baselines: points evaluated before any other (the uniform policies).
        sensitivity: returns, per dimension, [K_d] the rise of the error when only this dimension leaves its best choice; it may
            cost evaluations, so it is called at most once, and only by searchers that use it.
        features: [D, F] in [0, 1]: the state of the HAQ agent at each dimension; `feature_names` names the columns.
        float_error: the error of the unquantized network, where known (HAQ's reward is relative to it).
        gathered: metric -> its tables as `Gathered`, made when costs are asked for; problems that differ in limits share it.
        pair_cost: metric -> what pairs of sites add to it: the sums over sites alone are lower bounds. None of a peak metric.
    """

    cardinalities: tuple[int, ...]
    objectives: tuple[str, ...]
    sites: tuple[tuple[int, ...], ...]
    site_cost: Mapping[str, tuple[FloatArray, ...]]
    limits: Mapping[str, float] = field(default_factory=dict)
    base_cost: Mapping[str, float] = field(default_factory=dict)
    peak: frozenset[str] = frozenset()
    baselines: tuple[Values, ...] = ()
    sensitivity: Callable[[], tuple[FloatArray, ...]] | None = None
    features: FloatArray | None = None
    feature_names: tuple[str, ...] = ()
    float_error: float | None = None
    gathered: "dict[str, Gathered]" = field(default_factory=dict, repr=False)
    pair_cost: Mapping[str, tuple[SitePair, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Return the number of points."""
        return math.prod(self.cardinalities)

    def costs(self, values: IntArray, metrics: Iterable[str] | None = None) -> dict[str, FloatArray]:
        """Return metrics of points [N, D] (None: every one) as arrays [N]: a gather and a sum, never a loop over points."""
        costs, joint = {}, self._joint(values)
        for metric in self.site_cost if metrics is None else metrics:
            parts = self._gathered(metric).rows[np.arange(len(self.sites))[:, None], joint]
            base = np.full((1, len(values)), self.base_cost.get(metric, 0.0))
            parts = np.concatenate([base, parts])
            costs[metric] = parts.max(axis=0) if metric in self.peak else parts.sum(axis=0)
            for pair in self.pair_cost.get(metric, ()):
                costs[metric] += pair.added[joint[pair.first], joint[pair.second]]
        return costs

    def _joint(self, values: IntArray) -> IntArray:
        """Return [S, N]: the position of every point's choices in the flattened table of a site."""
        joint = np.zeros((len(self.sites), len(values)), dtype=np.int64)
        columns = np.ascontiguousarray(values.T)
        for sites, members, counts in self._places:
            joint[sites] = joint[sites] * counts + columns[members]
        return joint

    @cached_property
    def _places(self) -> list[tuple[IntArray, IntArray, IntArray]]:
        """Return, per place in a site: the sites that have one, their dimension there [S], and its choices [S, 1]."""
        places = []
        for place in range(max(map(len, self.sites), default=0)):
            sites = np.array([s for s, site in enumerate(self.sites) if len(site) > place])
            members = np.array([self.sites[s][place] for s in sites])
            places.append((sites, members, np.array(self.cardinalities, dtype=np.int64)[members, None]))
        return places

    def ends(self, metric: str) -> tuple[FloatArray, FloatArray]:
        """Return the least and the greatest entry of every site's table, [S] each."""
        kept = self._gathered(metric)
        return kept.least, kept.greatest

    def _gathered(self, metric: str) -> "Gathered":
        tables, kept = self.site_cost[metric], self.gathered.get(metric)
        if kept is None or kept.tables is not tables:
            rows = np.zeros((len(tables), max((table.size for table in tables), default=0)))
            for row, table in zip(rows, tables, strict=True):
                row[: table.size] = table.ravel()
            least, greatest = (np.array([float(end(table)) for table in tables]) for end in (np.min, np.max))
            kept = self.gathered[metric] = Gathered(tables, rows, least, greatest)
        return kept

    def costs_of(self, values: Sequence[int]) -> dict[str, float]:
        """Return every metric of one point."""
        return {metric: float(column[0]) for metric, column in self.costs(np.asarray([values], dtype=np.int64)).items()}

    def excess(self, values: IntArray) -> FloatArray:
        """Return [N, len(limits)]: how far each point is over each limit, relative to it; <= 0 keeps the limit."""
        if not self.limits:
            return np.zeros((len(values), 0))
        costs = self.costs(values, self.limits)
        return np.stack([(costs[metric] - limit) / max(abs(limit), 1e-300) for metric, limit in self.limits.items()], axis=1)

    def max_cost(self, metric: str) -> float:
        """Return the largest cost of one metric that any point has, or an upper bound where sites add to it in pairs."""
        parts = [self.base_cost.get(metric, 0.0), *(float(np.max(table)) for table in self.site_cost[metric])]
        parts += [float(pair.added.max()) for pair in self.pair_cost.get(metric, ())]
        return max(parts) if metric in self.peak else sum(parts)

    @property
    def limits_pairs(self) -> bool:
        """Whether a limited metric has pairs of sites: a sum over sites does not tell then whether a point keeps the limit."""
        return any(self.pair_cost.get(metric) for metric in self.limits)

    def feasible(self, values: Sequence[int]) -> bool:
        """Tell whether one point keeps every limit (up to the rounding of a sum of floats)."""
        return bool((self.excess(np.asarray([values], dtype=np.int64)) <= 1e-12).all())


@dataclass(frozen=True, eq=False)
class Gathered:
    """The tables of one metric: as given, flattened in the rows of one array [S, P], and their ends, [S] each."""

    tables: tuple[FloatArray, ...]
    rows: FloatArray
    least: FloatArray
    greatest: FloatArray


@dataclass(frozen=True, slots=True)
class Trial:
    """One proposal: the searcher's own count of its proposals (-1: it did not ask for this point) and the point."""

    number: int
    values: Values


class Searcher(Protocol):
    """Proposes and learns; never evaluates, logs, sleeps or starts processes.

    A searcher is built as `make(problem, seed, trials, **options)`. Several asks may be open at once, tells may come in any order, a
    tell may be for a point that was never asked (baselines), and the sequence of calls and the seed alone decide the proposals.
    """

    def ask(self) -> Trial | None:
        """Return the next point to evaluate, or None when there is nothing left to propose."""

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report the objectives of a trial (`problem.objectives` order, minimized), or None for a failed trial."""
