"""The cost of a post-training trial beside one evaluation of the float network: medians of process CPU time over policies, side by side.

Caches are warm, as after the first trials of a sweep: every quantized weight has been made once.

Run: python -m benchmarks.trial [--task digits] [--option KEY=VALUE ...] [--valid 0] [--policies 10]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.real_tasks import experiment
from search.config.key_value import task_options
from search.sweeps.context import open_context


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trial", description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--valid", type=int, default=0, help="validation examples; 0: all")
    parser.add_argument("--policies", type=int, default=10)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options = task_options(parsed.option)
    context = open_context(experiment(parsed.task, options, parsed.valid, 1, 1.0, 1.0))
    space, evaluator = context.setup.space, context.evaluator
    policies = [space.policy(space.sample(np.random.default_rng(n))) for n in range(parsed.policies)]
    for policy in policies:
        evaluator(policy)
    trials, plain = [], []
    for policy in policies:
        trials.append(seconds(partial(evaluator, policy)))
        plain.append(seconds(evaluator.float_metrics))
    trial, once = statistics.median(trials), statistics.median(plain)
    print(f"{parsed.task}: trial {trial * 1e3:.1f} ms, float evaluation {once * 1e3:.1f} ms of CPU time, ratio {trial / once:.2f}")


if __name__ == "__main__":
    main()
