"""Where trials run: the table of backends, and what one is given."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from quant_core.spec.policy import Policy
from quant_core.util.cache import CacheCounts
from search.config.experiment import Experiment
from search.records.result import Result
from search.sweeps.phases import Report, silent
from search.sweeps.sweep import Sweep

if TYPE_CHECKING:
    import torch

    from search.evaluation.racing import Incumbent, Watch

BACKENDS: dict[str, str] = {"local": "search.sweeps.local:run", "ray": "search.sweeps.ray.backend:run"}


class WatchedEvaluator(Protocol):
    """Evaluates policies of one network; plain data goes in and comes out. A watch may look on."""

    def __call__(self, policy: Policy, fidelity: str, after: Sequence[Policy], watch: "Watch | None" = None) -> Result:
        """Evaluate a policy at a fidelity, its training starting from that of the policies `after`; `watch` may stop it."""

    def watch(self, objective: str, incumbent: "Incumbent | None", confidence: float) -> "Watch":
        """Return a watch over one evaluation, which stops it where it is worse than an incumbent."""


class PolicyEvaluator(WatchedEvaluator, Protocol):
    """Evaluates policies and counts; nothing is raised but by a watch. A worker is given a copy of it."""

    def steps(self, policy: Policy, fidelity: str, after: Sequence[Policy]) -> Iterator[Result]:
        """Evaluate at growing fidelity; every result but the last has the status "stopped"."""

    def cache_counts(self) -> tuple[CacheCounts, CacheCounts]:
        """Return the hits and misses so far: quantized weights, ranges of activations."""

    @property
    def device(self) -> "torch.device":
        """Where networks are computed."""


@dataclass(frozen=True, eq=False)
class BackendContext:
    """What a backend is given beside the sweep.

    Attributes:
        experiment: plain data; a worker rebuilds everything from it.
        evaluator: of this process.
        changed: to be called whenever a trial begins in another process, and after every trial.
        stopping: to be asked before every trial.
        report: is told what a backend does before its first trial.
        hint: how a sweep that ends early goes on: a command.
        weights, ranges: what the caches of other processes did; filled by a backend whose workers have caches of their own.
    """

    experiment: Experiment
    evaluator: PolicyEvaluator
    changed: Callable[[], None]
    stopping: Callable[[], bool]
    report: Report = silent
    hint: str = ""
    weights: CacheCounts = field(default_factory=CacheCounts)
    ranges: CacheCounts = field(default_factory=CacheCounts)


Backend = Callable[[Sweep, BackendContext], None]
"""Drives a sweep (`next`, `finish`) until it is done or `context.stopping()` is true."""
