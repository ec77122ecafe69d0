"""What the HAQ agent takes along: taught on one network, it starts on another. `python -m benchmarks.transfer [--seeds 3] [--networks 4]`.

The networks are the made-up ones of the benchmark of searchers (P6: 20 to 52 layers, 10 to 25 pairs of bits, two limits). Every agent is
taught by 300 policies of one of them; on every other one it makes 50 policies, and a cold agent makes 300. An untaught agent without random
episodes, with the little noise of a taught one, shows what that alone does. Printed is the median over the seeds of the regret, the best
error less the least possible one, and how often the taught agent is at least as good after 50 policies as the cold one after 300.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.searchers_problems import Case, pairs
from search.problem.problem import FloatArray, Trial
from search.searchers import build
from search.searchers.haq.searcher import SIGMA_TAUGHT, HaqSearcher

TAUGHT, SHORT, LONG = 300, 50, 300


def searched(case: Case, seed: int, policies: int, **options: object) -> tuple[FloatArray, HaqSearcher]:
    """Return the regret after each policy, and the searcher as it is then."""
    searcher = cast(HaqSearcher, build("haq", case.problem, seed, LONG, options))
    for values in case.problem.baselines:
        searcher.tell(Trial(-1, values), (case.measure(values),))
    errors: list[float] = []
    while len(errors) < policies and (trial := searcher.ask()) is not None:
        error = case.measure(trial.values)
        searcher.tell(trial, (error,))
        errors.append(error if case.problem.feasible(trial.values) else np.inf)
    return np.minimum.accumulate(errors) - case.best, searcher


def main(arguments: Sequence[str] | None = None) -> None:
    """Teach, start, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=4)
    parsed = parser.parse_args(arguments)
    cases, won, all_runs = pairs()[: parsed.networks], 0, 0
    cold = {(case.name, seed): searched(case, seed, LONG)[0] for case in cases for seed in range(parsed.seeds)}
    quiet = {"warmup": 0, "sigma": SIGMA_TAUGHT}
    control = {(case.name, seed): searched(case, seed, SHORT, **quiet)[0] for case in cases for seed in range(parsed.seeds)}
    titles = ("taught", f"cold, {SHORT}", f"cold, {LONG}", f"untaught, {SHORT}")
    print(f"| taught on | started on | {' | '.join(titles)} | at least as good |\n|{'---|' * 7}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for source in cases:
            paths = []
            for seed in range(parsed.seeds):
                paths.append(Path(folder) / f"{source.name}-{seed}.safetensors")
                searched(source, seed, TAUGHT)[1].saved(source.name).write(paths[-1])
            for case in (case for case in cases if case is not source):
                warm = [searched(case, seed, SHORT, agent=str(path))[0] for seed, path in enumerate(paths)]
                reached = [cold[case.name, seed] for seed in range(parsed.seeds)]
                better = sum(bool(a[-1] <= b[-1]) for a, b in zip(warm, reached, strict=True))
                won, all_runs = won + better, all_runs + parsed.seeds
                columns = [[run[-1] for run in warm], [run[SHORT - 1] for run in reached], [run[-1] for run in reached]]
                columns.append([control[case.name, seed][-1] for seed in range(parsed.seeds)])
                figures = " | ".join(f"{statistics.median(column):.3f}" for column in columns)
                print(f"| {source.name} | {case.name} | {figures} | {better} of {parsed.seeds} |", flush=True)
    print(f"\nAt least as good in {won} of {all_runs}.")


if __name__ == "__main__":
    main()
