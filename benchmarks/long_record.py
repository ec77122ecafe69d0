"""A long sweep in MLflow: `python -m benchmarks.long_record [--trials 20000] [--parts 5] [--direct] [--folder FOLDER]`.

Runs `bitfront sweep` on a small network with one trial left when it is told to stop, and prints for every part of it the processor time per
trial and the memory of the process; then the processor time of `bitfront front` and of the `bitfront resume` that runs what is left. MLflow
is written to by a thread of the same process meanwhile, and after the last trial: its time is counted where it falls.
"""

import argparse
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from torch import nn

from search.tasks.task import Task

LEFT = 20  # trials
EXPERIMENT = """
name = "long"
[task]
name = "benchmarks.long_record:make"
[space]
weight = {{ bits = [2, 3, 4, 5, 6, 8], granularity = "channel" }}
activation = ["int8:tensor", "int4:tensor"]
[device]
name = "counts"
objectives = ["error", "weight_bytes"]
[search]
searcher = "random"
trials = {trials}
[track]
uri = "sqlite:///{folder}/mlflow.db"
"""


def make() -> Task:
    """Return the task: five small layers, not trained."""
    torch.manual_seed(0)
    widths = [12, 16, 16, 16, 16, 3]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model, inputs = nn.Sequential(*layers[:-1]).eval(), torch.randn(64, 12)
    batch = (inputs, model(inputs).argmax(dim=1))
    return Task(model, train=[batch], calib=[batch], valid=[batch], test=[batch])


def command(folder: Path, module: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start `bitfront` in a folder, by the module that has it."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "BITFRONT_CACHE": str(folder / "cache"),
    }
    words = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _print_parts(sweep: "subprocess.Popen[str]", trials: int, parts: int) -> None:
    """Follow the sweep, print a line for every part of it, and tell it to stop before its last trials."""
    watched, last, before = psutil.Process(sweep.pid), 0, 0.0
    assert sweep.stderr
    for line in sweep.stderr:
        done = json.loads(line).get("done", 0) if line.startswith("{") else 0
        if not last and done:
            last, before = done, _cpu(watched)
        if done >= last + (trials - LEFT) // parts:
            now = _cpu(watched)
            memory = watched.memory_info().rss / 2**20
            print(f"{done} | {1000 * (now - before) / (done - last):.2f} | {memory:.0f}", flush=True)
            last, before = done, now
        if done == trials - LEFT:
            sweep.send_signal(signal.SIGINT)
    print(f"exit code {sweep.wait()}", flush=True)


def _measured(folder: Path, *arguments: str) -> None:
    """Print the processor time of a command from its start to its end."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = command(folder, "search", *arguments)
    said = process.communicate()[1]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{arguments[0]}: {took:.2f} s of processor time, {time.perf_counter() - begun:.2f} s, exit code {process.returncode}", flush=True
    )
    if process.returncode:
        print(said[-2000:])


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--parts", type=int, default=5)
    parser.add_argument("--direct", action="store_true", help="write the rows of trials without MLflow's client, in a fifth of the time")
    parser.add_argument("--folder", type=Path, help="where the store is kept; a temporary folder otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "e.toml").write_text(EXPERIMENT.format(trials=arguments.trials, folder=folder))
        uri = f"sqlite:///{folder}/mlflow.db"
        print("trials | ms per trial | MiB", flush=True)
        module = "benchmarks.long_direct" if arguments.direct else "search"
        _print_parts(command(folder, module, "sweep", "e.toml", "--log", "json"), arguments.trials, arguments.parts)
        for _ in range(3):
            _measured(folder, "front", "long", "--uri", uri)
        _measured(folder, "resume", "long", "--uri", uri, "--trust")
        print(f"database: {(folder / 'mlflow.db').stat().st_size / 2**20:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
