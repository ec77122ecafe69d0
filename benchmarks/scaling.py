"""The gain and the cost of the Ray backend: two workers against one, and the overhead of a trial beyond its evaluation.

A trial burns a fixed amount of CPU time in one thread of its process and never sleeps, so that a busy machine shows: wall time grows, CPU
time does not. "workers_busy" is how many workers were evaluating at a time, which other load does not change.
Rates are taken at steady state, from the end of the first trials (when every worker has started) to the last.

Usage: python -m benchmarks.scaling [--trials 12] [--seconds 2] [--short-trials 150]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.cache import CacheCounts
from search.config.files import loads
from search.evaluation.racing import Incumbent, UnfitError, Watch
from search.problem.problem import Problem
from search.records.record import TrialRecord
from search.records.result import Result
from search.searchers import build
from search.sweeps.backend import BackendContext
from search.sweeps.ray.backend import run
from search.sweeps.sweep import Sweep
from spaces import rules

EXPERIMENT = """
[task]
name = "benchmarks"
[space]
weight = ["int2:channel", "int4:channel", "int8:channel"]
activation = ["int8:tensor"]
[device]
name = "counts"
[run]
backend = "ray"
"""
LAYERS = 20
SHORT_S = 0.001


@dataclass
class Recorder:
    """Keeps nothing but when each trial ended, and how long its evaluation took."""

    ends: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def record(self, trial: TrialRecord) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        self.seconds.append(trial.result.seconds)

    def update_front(self, numbers: object, knee: int, hypervolume: float) -> None:
        """Nothing to keep."""


@dataclass(frozen=True)
class Burn:
    """An evaluator that takes `cpu_s` seconds of its process's CPU time."""

    cpu_s: float

    def __call__(self, policy: Policy, fidelity: str, after: Sequence[Policy], watch: Watch | None = None) -> Result:  # noqa: ARG002
        """Return a made-up result after the work."""
        wall, cpu, total = time.perf_counter(), time.process_time(), 0.0
        while time.process_time() - cpu < self.cpu_s:
            total += sum(i * 0.5 for i in range(1000))
        error = sum(2.0**-layer.weight.bits for layer in policy.values()) / len(policy)
        return Result(policy.id, {"error": error, "accuracy": 1 - error}, {}, time.perf_counter() - wall, fidelity=fidelity)

    def steps(self, policy: Policy, fidelity: str, after: Sequence[Policy]) -> Iterator[Result]:
        """Yield the one result of a call: there are no rungs."""
        yield self(policy, fidelity, after)

    def watch(self, objective: str, incumbent: Incumbent | None, confidence: float) -> Watch:  # noqa: ARG002
        """Refuse: there are no examples to watch."""
        raise UnfitError("results are made up")

    def cache_counts(self) -> tuple[CacheCounts, CacheCounts]:
        """Return zeros: there are no caches."""
        return CacheCounts(), CacheCounts()

    @property
    def device(self) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")


def steady(trials: int, cpu_s: float, workers: int) -> dict[str, float]:
    """Run one sweep and return its figures at steady state."""
    weights = [parse(f"int{bits}:channel") for bits in (2, 4, 8)]
    layers = [Layer(f"layer{n}", "linear", 64, 64, (64, 64), (1,), (1,), 4096) for n in range(LAYERS)]
    space = rules.full(layers, {"weight": weights, "activation": [parse("int8:tensor")]})
    cost = tuple(np.array([2.0, 4.0, 8.0]) for _ in layers)
    problem = Problem(space.cardinalities, ("error", "weight_bytes"), space.sites, {"weight_bytes": cost}, baselines=rules.uniform(space))
    notes = Recorder()
    sweep = Sweep(space, problem, build("random", problem, 0, trials), "random", trials, problem.objectives, (1.0, 9.0 * LAYERS), notes)
    experiment = loads(EXPERIMENT, overrides=[f"run.workers={workers}", f"search.trials={trials}"])
    cpu: list[float] = []
    run(sweep, BackendContext(experiment, Burn(cpu_s), lambda: cpu.append(time.process_time()), lambda: False))
    warm = 2 * workers
    wall = notes.ends[-1] - notes.ends[warm - 1]
    gaps = np.diff(notes.ends[warm - 1 :])
    return {
        "workers": workers,
        "trials": len(notes.ends),
        "trials_per_s": (trials - warm) / wall,
        "workers_busy": sum(notes.seconds[warm:]) / wall,
        "evaluation_wall_s": statistics.mean(notes.seconds[warm:]),
        "overhead_ms_median": 1e3 * float(np.median(workers * gaps - notes.seconds[warm:])),
        "overhead_ms_mean": 1e3 * (workers * wall / (trials - warm) - statistics.mean(notes.seconds[warm:])),
        "driver_cpu_ms_per_trial": 1e3 * (cpu[-1] - cpu[warm - 1]) / (trials - warm),
    }


def main() -> None:
    """Measure one worker, two, one again, and short trials; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of a trial")
    parser.add_argument("--short-trials", type=int, default=150)
    arguments = parser.parse_args()
    load = [os.getloadavg()[0]]
    sweeps = []
    for workers in (1, 2, 1):  # the middle one between two of the others: the machine's other work changes with time
        sweeps.append(steady(arguments.trials, arguments.seconds, workers))
        load.append(os.getloadavg()[0])
    one = statistics.mean(single["trials_per_s"] for single in (sweeps[0], sweeps[2]))
    short = steady(arguments.short_trials, SHORT_S, 1)
    figures = {"ratio": sweeps[1]["trials_per_s"] / one, "sweeps": sweeps, "short": short, "load": load, "cpus": os.cpu_count()}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
