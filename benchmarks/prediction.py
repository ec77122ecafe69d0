"""Latency that a profile predicts for mixed policies of a task, against what the runtime takes for the whole network.

python -m benchmarks.prediction --task efficientnet_lite0 --option path=FOLDER --runtime openvino [--profile FOLDER] [--policies 20]
prints a line of the table of docs/export-runtimes.md: median and largest error, rank correlation, and that of every second call with the
others, above which no prediction comes. CPU time on one thread; a profile that is in the folder is gone on with.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from hw_models.loading import load_device
from hw_models.measurements import Measurement, Mode
from hw_models.profiling.device import paths, resume, write
from hw_models.profiling.host import host
from hw_models.table import build_table
from quant_core.export.replay import timed
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy
from search import tasks
from search.cli.profile_runtime import CALIBRATION
from search.config.key_value import task_options
from search.evaluation.measure import first_inputs, take, traced_inputs
from search.exporters import profiling_beside
from search.exporters.profiling import MODES, Profiled, enough, low_ratio, measure_modes, unmeasured
from search.exporters.profiling_beside import followers_of, measure_beside
from search.exporters.runtimes import Runtime, example_arrays, runtime


@dataclass(frozen=True)
class Agreement:
    """How predicted times agree with measured ones.

    Attributes:
        median_error, largest_error: of |predicted / measured - 1|.
        rank: Spearman's correlation.
    """

    median_error: float
    largest_error: float
    rank: float


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Return how predicted seconds agree with measured ones, entry by entry."""
    errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return Agreement(float(np.median(errors)), float(errors.max()), float(spearmanr(predicted, measured)[0]))


def mixed(network: Profiled, modes: Sequence[Mode], count: int, seed: int = 0) -> list[Policy]:
    """Return random policies: most of a policy's layers have one mode, a random share of them any other, so that times differ widely."""
    uniform, rng, policies = [network.uniform(mode) for mode in modes], random.Random(seed), []
    for _ in range(count):
        share, base = rng.random(), rng.randrange(len(uniform))
        drawn = {layer.name: rng.randrange(len(uniform)) if rng.random() < share else base for layer in network.layers}
        policies.append(Policy({name: uniform[index][name] for name, index in drawn.items()}))
    return policies


def main() -> None:
    """Profile what is not profiled yet, write and time the mixed policies, print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--profile", type=Path, default=Path())
    parser.add_argument("--policies", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    network, target = _network(arguments.task, task_options(arguments.option)), runtime(arguments.runtime)
    modes, device = _profiled(network, target, arguments.task, arguments.profile, arguments.repeats)
    policies = mixed(network, modes, arguments.policies)
    choices = {layer.name: list(dict.fromkeys(network.uniform(mode)[layer.name] for mode in modes)) for layer in network.layers}
    table = build_table(load_device(device), network.layers, choices)
    predicted = [float(table.totals(policy)["latency_s"]) for policy in policies]
    calls = _calls(network, target, policies, arguments.repeats)
    result, halves = agreement(predicted, seconds(calls)), agreement(seconds(calls, slice(0, None, 2)), seconds(calls, slice(1, None, 2)))
    for row in zip(predicted, seconds(calls), strict=True):
        print("predicted {:.6g} s, measured {:.6g} s".format(*row), file=sys.stderr)
    errors = f"{result.median_error:.1%} | {result.largest_error:.1%} | {result.rank:.3f} | {halves.rank:.3f}"
    print(f"| {arguments.task} | {target.name} {target.version} | {len(policies)} | {errors} |", flush=True)


def _network(name: str, options: Mapping[str, object]) -> Profiled:
    task = tasks.load(name, options)
    inputs, example = traced_inputs(task), first_inputs(task)
    layers = tuple(trace(task.model, inputs[0], inputs))
    engine = PostTraining(task.model, layers, [batch for batch, _ in take(task.calib, CALIBRATION)], example)
    return Profiled(task.model, layers, example, engine)


def _profiled(network: Profiled, target: Runtime, task: str, folder: Path, repeats: int) -> tuple[list[Mode], Path]:
    """Return the modes that a runtime runs, and the device file of the profile."""
    name, machine = f"{task.replace('_', '-')}-{target.name}", host(1, f"{target.name} {target.version}")
    rows, followed = list(resume(name, folder, machine, 1)), followers_of(network, target.beside)

    def kept(measured: list[Measurement]) -> None:
        rows.extend(measured)
        write(name, folder, machine, 1, rows, followed)

    refused = measure_modes(network, target, unmeasured(network, target, rows, MODES), 1, repeats, kept)
    measure_beside(network, target, followed, profiling_beside.left(network.layers, followed, rows), 1, repeats, kept)
    return [mode for mode in MODES if str(mode) not in refused], paths(name, folder)[0]


def _calls(network: Profiled, target: Runtime, policies: Sequence[Policy], repeats: int) -> list[NDArray[np.float64]]:
    """Return per policy the CPU seconds of calls in turns, [calls, 2]: under the policy, and of the float network."""
    arrays, calls = example_arrays(network.example), []
    with tempfile.TemporaryDirectory() as folder:
        reference = target.write_float(network.model, network.example, Path(folder))
        for policy in policies:
            with tempfile.TemporaryDirectory() as place:
                files = [(target.write(network.quantized(policy), Path(place)), {"threads": 1}), (reference, {"threads": 1})]
                first = float(timed(files, arrays, target.name, repeats=3, own=True).min(axis=0).sum())
                calls.append(timed(files, arrays, target.name, repeats=enough(repeats, first), own=True))
    return calls


def seconds(calls: Sequence[NDArray[np.float64]], part: slice = slice(None)) -> list[float]:
    """Return the seconds of every policy: the ratio of low means, as a profile takes it, times the least time of the float network.

    Args:
        calls: per policy [calls, 2], its seconds and the float network's.
        part: of the calls that ratios are taken of.
    """
    least = min(float(rows[:, 1].min()) for rows in calls)
    return [low_ratio(rows[part]) * least for rows in calls]


if __name__ == "__main__":
    main()
