"""What the tests share: made-up sweeps, an empty MLflow store, the command line, and small sweeps that are run."""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from search.cli.app import main
from search.records.record import SweepRecord, TrialRecord
from search.records.result import Result
from tests.forked import ran
from tests.search.browser import Browser, chromium

MakeSweep = Callable[..., SweepRecord]
Call = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = """
name = "{name}"
[task]
name = "{task}"
options = {options}
[space]
weight = {weight}
activation = {activation}
[device]
name = "{device}"
objectives = ["error", "weight_bytes"]
[search]
searcher = "random"
trials = {trials}
seed = 3
[evaluate]
{evaluate}
[track]
uri = "sqlite:///{folder}/mlflow.db"
"""
EXPERIMENT = '[task]\nname = "digits"\n[track]\nuri = "postgresql://alice:s3cret-word@db.example/runs"\n'


def _trial(number: int, rng: random.Random, layers: int) -> TrialRecord:
    """Two uniform baselines, then random policies; every tenth fails, every twelfth repeats an earlier one."""
    bits = [(4, 8)[number]] * layers if number < 2 else [rng.choice((2, 3, 4, 5, 6, 8)) for _ in range(layers)]
    specs = [LayerPolicy(parse(f"int{width}:channel:mse"), parse("int8:tensor:ema")) for width in bits]
    policy = Policy({f"body.{i}.conv": spec for i, spec in enumerate(specs)})
    error = 0.02 + 0.3 * sum(4.0**-width for width in bits) / layers + 0.01 * rng.random()
    cost = {"weight_bytes": 64.0 * sum(bits), "latency_s": 1e-5 * sum(bits) + 1e-6 * rng.random()}
    metrics = {"accuracy": 1 - error, "error": error, "loss": 2 * error, "bits_weight_avg": sum(bits) / layers, "bits_activation_avg": 8.0}
    result = Result(policy.id, metrics, cost, 0.125)
    if number % 10 == 9:
        result = Result(policy.id, {}, cost, 0.5, "failed", "RuntimeError: out of memory at postgresql://bob:hunter2-word@db/x")
    origin = "baseline" if number < 2 else "random"
    return TrialRecord(number, origin, tuple(bits), policy, result, 2 * number, 2 * number + 1)


@pytest.fixture(scope="session")
def make_sweep() -> MakeSweep:
    """Return a maker of whole sweeps: `make_sweep("name", trials=30, seed=0, layers=6, objectives=...)`."""

    def make(
        name: str = "made-up",
        *,
        trials: int = 30,
        seed: int = 0,
        layers: int = 6,
        objectives: tuple[str, ...] = ("error", "weight_bytes"),
        limits: dict[str, float] | None = None,
    ) -> SweepRecord:
        rng = random.Random(seed)
        reference = {"error": 1.0, "weight_bytes": 64.0 * 8 * layers * 1.05, "latency_s": 1e-5 * 8 * layers * 1.05}
        return SweepRecord(
            name=name,
            run_id=f"{seed:032x}",
            experiment=EXPERIMENT,
            fingerprints={"weights": "0f" * 8, "data": "1e" * 8},
            objectives=objectives,
            limits=limits or {},
            reference={metric: reference[metric] for metric in objectives},
            baseline={"accuracy_test": 0.97, "accuracy_valid": 0.98, "weight_bytes": 64.0 * 32 * layers},
            status="finished",
            trials=tuple(_trial(number, rng, layers) for number in range(trials)),
        )

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with MLflow's tables and nothing in them (making one takes seconds; tests copy it)."""
    from search.tracking.client import connect

    folder = tmp_path_factory.mktemp("mlflow")
    connect(f"sqlite:///{folder}/mlflow.db", folder)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a browser without a screen; tests that use it are marked `browser`."""
    with chromium(tmp_path_factory.mktemp("chromium")) as driven:
        yield driven


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the uri of a fresh store in an empty working directory."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def bitfront() -> Call:
    """Return what runs the command line in this process: exit code and output as a shell would see them. `own_task` can be imported."""
    sys.path.append(str(Path(__file__).parent))

    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["bitfront", *map(str, arguments)])
            patch.setattr(sys, "path", list(sys.path))
            with pytest.raises(SystemExit) as exit_:
                main()
        code = exit_.value.code
        return subprocess.CompletedProcess([], code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def sweep(bitfront: Call) -> Callable[..., str]:
    """Return what runs a small random sweep in a folder and gives the address of its store."""

    def run(folder: Path, *, options: str = "{}", evaluate: str = "", device: str = "generic-cpu", **figures: object) -> str:
        path = folder / "experiment.toml"
        path.write_text(RUN.format(folder=folder, options=options, evaluate=evaluate, device=device, **figures))
        before = Path.cwd()
        os.chdir(folder)
        try:
            answer = bitfront("sweep", path)
        finally:
            os.chdir(before)
        assert answer.returncode == 0, answer.stderr
        return f"sqlite:///{folder}/mlflow.db"

    return run


@pytest.fixture(scope="session")
def finished_trials() -> Callable[[str], dict[str, list[int]]]:
    """Return a reader of a store, through MLflow itself and in another process: the numbers of the finished trial runs of each sweep."""
    code = (
        "import collections, json, sys; from mlflow import MlflowClient\n"
        "client, found = MlflowClient(sys.argv[1]), collections.defaultdict(list)\n"
        "ids = [each.experiment_id for each in client.search_experiments()]\n"
        "for run in client.search_runs(ids, 'tags.`bitfront.trial` != \"\"', max_results=1000):\n"
        "    if run.info.status == 'FINISHED': found[run.data.tags['bitfront.sweep']].append(int(run.data.tags['bitfront.trial']))\n"
        "print(json.dumps({sweep: sorted(numbers) for sweep, numbers in found.items()}))"
    )

    def read(uri: str) -> dict[str, list[int]]:
        answer = ran(uri, script=code)
        numbers: dict[str, list[int]] = json.loads(answer.stdout.splitlines()[-1])
        return numbers

    return read
