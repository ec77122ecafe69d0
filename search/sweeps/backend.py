"""Where trials run: the table of backends, and what one is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quant_core.spec.policy import Policy
from quant_core.util.cache import CacheCounts
from search.config.experiment import Experiment
from search.records.result import Result
from search.sweeps.sweep import Sweep

BACKENDS: dict[str, str] = {"local": "search.sweeps.local:run", "ray": "search.sweeps.ray.backend:run"}


@dataclass(frozen=True, eq=False)
class Work:
    """What a backend is given beside the sweep.

    Attributes:
        experiment: plain data; a worker rebuilds everything from it.
        evaluate: evaluates in this process: (policy, cost, fidelity, policies trained before it) -> result; never raises.
        changed: to be called whenever a trial begins in another process, and after every trial.
        stopping: to be asked before every trial.
        weights, ranges: what the caches of other processes did; filled by a backend whose workers have caches of their own.
    """

    experiment: Experiment
    evaluate: Callable[[Policy, Mapping[str, float], str, Sequence[Policy]], Result]
    changed: Callable[[], None]
    stopping: Callable[[], bool]
    weights: CacheCounts = field(default_factory=CacheCounts)
    ranges: CacheCounts = field(default_factory=CacheCounts)


Backend = Callable[[Sweep, Work], None]
"""Drives a sweep (`next`, `finish`) until it is done or `work.stopping()` is true."""
