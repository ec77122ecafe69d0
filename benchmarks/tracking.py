"""The cost of recording: `python -m benchmarks.tracking [--trials 2000] [--trial-ms 1] [--layers 20] [--sweeps 1] [--uri URI]`.

Runs made-up trials of a given length against an MLflow store (a fresh SQLite file unless `--uri` names another), several sweeps at once
with `--sweeps`, and prints one JSON object: wall time, how long the driver was blocked per trial, how busy the background thread was, the
processor time of the whole process (which other load on the machine does not stretch), how the driver's memory grew, how long `bitfront
front` then takes, and for a SQLite file how long MLflow's server takes to start, to give its page and the first runs of the front.
"""

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from search import tracking
from search.problem.pareto import Archive
from search.records.record import SweepRecord, TrialRecord
from search.records.result import Result
from search.tracking.names import PARETO
from search.tracking.server import serve

WEIGHTS = [parse(f"int{bits}:channel:mse") for bits in (2, 3, 4, 5, 6, 8)]
ACTIVATION = parse("int8:tensor:ema")


def made_up(number: int, layers: int, rng: random.Random) -> TrialRecord:
    """Return a trial of a random policy whose error falls with its bits."""
    values = tuple(rng.randrange(len(WEIGHTS)) for _ in range(layers))
    policy = Policy({f"body.{i}.conv": LayerPolicy(WEIGHTS[value], ACTIVATION) for i, value in enumerate(values)})
    bits = [WEIGHTS[value].bits for value in values]
    error = sum(4.0**-width for width in bits) / layers + 0.02 * rng.random()
    metrics = {"accuracy": 1 - error, "error": error, "loss": error, "bits_weight_avg": sum(bits) / layers, "bits_activation_avg": 8.0}
    cost = {"weight_bytes": 100.0 * sum(bits), "latency_s": 1e-6 * sum(bits), "energy_j": 1e-7 * sum(bits)}
    return TrialRecord(number, "random", values, policy, Result(policy.id, metrics, cost, 1e-3), 2 * number, 2 * number + 1)


def sweep(name: str, uri: str, trials: int, trial_s: float, layers: int) -> dict[str, float]:
    """Record one sweep and return what it cost."""
    objectives = ("error", "weight_bytes")
    reference = {"error": 1.0, "weight_bytes": 800.0 * layers}
    header = SweepRecord(name, "", "", {}, objectives, {}, reference, {"weight_bytes": 3200.0 * layers}, "running")
    tracker = tracking.start(uri, "benchmark", header, {"searcher": "random"})
    archive, rng, memory = Archive(tuple(reference.values())), random.Random(name), []
    begun, cpu = time.perf_counter(), time.process_time()
    for number in range(trials):
        trial = made_up(number, layers, rng)
        time.sleep(trial_s)
        tracker.record(trial)
        if archive.add(number, (trial.result.metrics["error"], trial.result.cost["weight_bytes"])):
            tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)
        if number in (trials // 4, trials - 1):
            memory.append(psutil.Process().memory_info().rss / 2**20)
    loop_s = time.perf_counter() - begun
    complete = tracker.finish("finished")
    wall_s = time.perf_counter() - begun
    memory.append(psutil.Process().memory_info().rss / 2**20)
    return {
        "complete": complete,
        "loop_s": loop_s,
        "wall_s": wall_s,
        "blocked_ms_per_trial": 1e3 * tracker.blocked_s / trials,
        "blocked_share": tracker.blocked_s / loop_s,
        "writer_busy_s": tracker.busy_s,
        "writer_ms_per_trial": 1e3 * tracker.busy_s / trials,
        "cpu_ms_per_trial": 1e3 * (time.process_time() - cpu) / trials,
        "memory_mib_at_a_quarter": memory[0],
        "memory_mib_at_the_end": memory[1],
        "memory_mib_when_sent": memory[2],
    }


def front_seconds(uri: str, name: str) -> float:
    """Return the wall time of the command `bitfront front`, process start included."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "search", "front", name, "--uri", uri], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def open_ui(uri: str) -> dict[str, float]:
    """Return the seconds that MLflow's server takes to start on a store, and to answer the first requests of the browser."""
    begun = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    server = serve(uri, port)
    try:
        started = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as answer:
            page = answer.read()
        shown = time.perf_counter()
        query = {"experiment_ids": ["1"], "filter": f"tags.`{PARETO}` = 'true'", "max_results": 100, "order_by": ["metrics.`error` ASC"]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/runs/search", json.dumps(query).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            runs = json.loads(answer.read()).get("runs", [])
        ended = time.perf_counter()
    finally:
        server.terminate()
        server.communicate()
    return {"start_s": started - begun, "page_s": shown - started, "page_bytes": len(page), "runs_s": ended - shown, "runs": len(runs)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--trial-ms", type=float, default=1.0)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--uri", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = arguments.uri or f"sqlite:///{folder}/mlflow.db"
        names = [f"benchmark-{time.time_ns()}-{i}" for i in range(arguments.sweeps)]
        with ProcessPoolExecutor(arguments.sweeps, get_context("spawn")) as pool:
            sweeps = [pool.submit(sweep, name, uri, arguments.trials, arguments.trial_ms / 1e3, arguments.layers) for name in names]
            costs = [running.result() for running in sweeps]
        database = Path(uri.removeprefix("sqlite:///"))
        figures = {
            "trials": arguments.trials,
            "sweeps": costs,
            "front_command_s": min(front_seconds(uri, names[0]) for _ in range(3)),
            "read_trials": [len(tracking.read(uri, name).trials) for name in names],
            "database_mib": database.stat().st_size / 2**20 if database.is_file() else None,
            "ui": open_ui(uri) if database.is_file() else None,
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
