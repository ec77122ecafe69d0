"""A long sweep without a network: `python -m benchmarks.long_sweep [--trials 20000] [--layers 20] [--searcher random] [--parts 5]`.

A stand-in evaluates policies by their bits alone. For every part of the sweep it prints the processor time per trial, journal included, and
how the memory grew; then the processor time of reading the journal and of a resume's replay.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy
from quant_core.spec.quant_spec import parse
from search.problem.problem import Problem
from search.records.record import TrialRecord
from search.records.result import Result
from search.searchers import build
from search.sweeps.sweep import Sweep
from search.tracking.codec import layer_names, trial_from_json, trial_to_json
from search.tracking.spool import Spool
from spaces import rules
from spaces.space import Space

WEIGHTS = [parse(f"int{bits}:channel:mse") for bits in (2, 3, 4, 5, 6, 8)]


class Journal:
    """Keeps trials as the tracker does, in a journal without MLflow behind it."""

    def __init__(self, spool: Spool, layers: Sequence[str]) -> None:
        self._spool, self._layers = spool, layers

    def record(self, trial: TrialRecord) -> None:
        """Append one."""
        self._spool.append({"op": "trial", "trial": trial_to_json(trial, self._layers)})

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep nothing."""


def stand_in(policy: Policy) -> Result:
    """Return a result that depends on the bits alone."""
    bits = [layer.weight.bits for layer in policy.values()]
    error = sum(4.0**-width * (1 + n % 7) for n, width in enumerate(bits)) / len(bits)
    return Result(policy.id, {"error": error, "accuracy": 1 - error, "loss": error}, seconds=1e-3)


def made(layers: int, searcher: str, trials: int, journal: Journal) -> Sweep:
    """Return the sweep before its first trial."""
    space: Space = rules.full(
        [Layer(f"l{n}", "linear", 4, 4, (4, 4), (1,), (1,), 16) for n in range(layers)],
        {"weight": WEIGHTS, "activation": [parse("int8:tensor")]},
    )
    cost = tuple(np.array([float(spec.bits) for spec in WEIGHTS]) for _ in range(layers))
    objectives = ("error", "weight_bytes")
    problem = Problem(space.cardinalities, objectives, space.sites, {"weight_bytes": cost}, baselines=rules.uniform(space))
    return Sweep(space, problem, build(searcher, problem, 0, trials), searcher, trials, objectives, (1.0, 9.0 * layers), journal)


def drive(sweep: Sweep, most: int) -> None:
    """Run so many trials."""
    for _ in range(most):
        evaluation = sweep.next()
        if evaluation is None:
            return
        sweep.finish(evaluation.number, replace(stand_in(evaluation.policy), fidelity=evaluation.fidelity))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--searcher", default="random")
    parser.add_argument("--parts", type=int, default=5)
    arguments = parser.parse_args()
    names = [f"l{n}" for n in range(arguments.layers)]
    with tempfile.TemporaryDirectory() as folder:
        spool, process = Spool(Path(folder), "0" * 32), psutil.Process(os.getpid())
        spool.acquire()
        sweep = made(arguments.layers, arguments.searcher, arguments.trials, Journal(spool, names))
        print("trials | ms per trial | MiB more | front")
        for _ in range(arguments.parts):
            begun, memory = time.process_time(), process.memory_info().rss
            drive(sweep, arguments.trials // arguments.parts)
            took, more = time.process_time() - begun, process.memory_info().rss - memory
            per_trial = 1000 * took * arguments.parts / arguments.trials
            print(f"{sweep.told} | {per_trial:.2f} | {more / 2**20:.1f} | {len(sweep.archive.numbers)}", flush=True)
        begun = time.process_time()
        lines = spool.all_lines()
        trials = [trial_from_json(line["trial"], layer_names(names)) for line in lines]
        print(f"journal read: {time.process_time() - begun:.2f} s")
        begun = time.process_time()
        again = made(arguments.layers, arguments.searcher, arguments.trials, Journal(spool, names))
        again.replay(trials)
        print(f"replay: {time.process_time() - begun:.2f} s, {again.told} trials")
        assert list(itertools.islice(again.records.items(), 3)) == list(itertools.islice(sweep.records.items(), 3))


if __name__ == "__main__":
    main()
