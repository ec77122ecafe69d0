"""The command line as a user runs it: whole sweeps, kill -9 and resume, the same seed twice, bad input."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from quant_core.util.errors import BitfrontError, LeftInFloatWarning
from search.cli.app import main, one_line
from search.tracking import read, sweeps

ROOT = Path(__file__).parents[2]
EXPERIMENT = """
name = "{name}"
[task]
name = "own_task:make"
options = {options}
[space]
weight = {{ bits = [2, 4, 8], granularity = "channel", clipping = "mse" }}
activation = ["int8:tensor", "int4:tensor:mse"]
[device]
name = "vu9p-bitserial"
objectives = ["error", "weight_bytes", "latency_s"]
budget = {{ weight_bytes = "0.3 of float" }}
[search]
searcher = "tpe"
trials = 16
seed = 5
[track]
uri = "sqlite:///{folder}/mlflow.db"
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(home: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": paths,
        "HOME": str(home),
        "BITFRONT_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, as `main` does: exit code and output as a shell would see them."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["bitfront", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return subprocess.CompletedProcess([], code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    return call


def experiment(folder: Path, name: str = "one", options: str = "{}", change: tuple[str, str] = ("", "")) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(EXPERIMENT.format(name=name, options=options, folder=folder).replace(*change))
    return path


def trials(run: Run, ref: str) -> list[dict[str, object]]:
    found = run("front", ref, "--all", "--json")
    assert found.returncode == 0, found.stderr
    rows: list[dict[str, object]] = json.loads(found.stdout)
    return rows


def test_sweep_front_show_export_apply(run: Run, tmp_path: Path) -> None:
    done = run("sweep", experiment(tmp_path), "--log", "json")
    assert done.returncode == 0, done.stderr
    name, run_id = done.stdout.splitlines()[-1].split(" ")
    assert name == "one"
    assert json.loads(next(line for line in done.stderr.splitlines() if line.startswith("{")))["trials"] == 16
    rows = json.loads(run("front", run_id, "--json").stdout)
    keys = (
        "id trial accuracy_valid accuracy_test accuracy_float_test latency_s energy_j weight_bytes float_weight_bytes bits_weight_avg knee"
    )
    assert set(keys.split()) <= set(rows[0])
    assert sum(bool(row["knee"]) for row in rows) == 1
    assert all(row["weight_bytes"] <= 0.3 * row["float_weight_bytes"] for row in rows)
    assert all(row["accuracy_test"] is not None for row in rows)
    everything = trials(run, name)
    assert [row["trial"] for row in everything] == list(range(16))
    assert {row["status"] for row in everything} == {"ok"}
    best = max(rows, key=lambda row: row["accuracy_valid"])
    assert run("show", name, best["id"]).returncode == 0
    out = tmp_path / "out"
    assert run("export", name, "--pick", best["id"], "--out", out).returncode == 0
    assert run("export", name, "--pick", best["id"], "--out", out).returncode == 2, "an existing folder needs --force"
    applied = json.loads(run("apply", out / "policy.json", "--task", "own_task:make", "--json").stdout)
    assert (applied["id"], applied["accuracy_test"]) == (best["id"], best["accuracy_test"])
    assert applied["weight_bytes"] == best["weight_bytes"]


def test_same_seed_gives_the_same_policies_and_figures(run: Run, tmp_path: Path) -> None:
    figures = []
    for name in ("one", "two"):
        assert run("sweep", experiment(tmp_path, name)).returncode == 0
        figures.append([(row["id"], row["accuracy_valid"], row["weight_bytes"], row["latency_s"]) for row in trials(run, name)])
    assert figures[0] == figures[1]
    other = run("sweep", experiment(tmp_path, "three"), "search.seed=6")
    assert other.returncode == 0
    assert re.search(
        r"trials [\d.]+: evaluation [\d.]+, search [\d.]+, tracking [\d.]+, idle [\d.]+;.*; 0 attempts made again", other.stderr
    )
    assert re.search(r"caches: weights [1-9]\d* hits, [1-9]\d* misses, .* activation ranges [1-9]\d* hits, [1-9]\d* misses;", other.stderr)
    assert other.stderr.splitlines()[-1].startswith(f"next: bitfront front three --uri sqlite:///{tmp_path}/mlflow.db | bitfront ui")
    assert [row["id"] for row in trials(run, "three")] != [row[0] for row in figures[0]]


def test_kill_and_resume_equals_an_undisturbed_sweep(
    run: Run, tmp_path: Path, finished_trials: Callable[[str], dict[str, list[int]]]
) -> None:
    options = "{ sleep = 0.05 }"
    assert run("sweep", experiment(tmp_path, "whole", options)).returncode == 0
    command = [sys.executable, "-m", "search", "sweep", str(experiment(tmp_path, "part", options)), "--log", "json"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["done"] >= 9:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    before = len(trials(run, "part"))
    assert 9 <= before < 16
    resumed = run("resume", "part")
    assert resumed.returncode == 0, resumed.stderr
    keys = ("trial", "id", "accuracy_valid", "accuracy_test", "weight_bytes", "latency_s", "status", "origin")
    part, whole = ([[row[key] for key in keys] for row in trials(run, name)] for name in ("part", "whole"))
    assert part == whole
    assert run("resume", "part").returncode == 0, "resuming a finished sweep changes nothing"
    assert [[row[key] for key in keys] for row in trials(run, "part")] == whole
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert len(sweeps(uri)) == 2
    assert finished_trials(uri) == {"whole": list(range(16)), "part": list(range(16))}


def test_ctrl_c_stops_after_the_running_trial_and_can_be_resumed(run: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "search", "sweep", str(experiment(tmp_path, options="{ sleep = 0.05 }")), "--log", "json"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert process.stdout
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["done"] >= 8:
            break
    process.send_signal(signal.SIGINT)
    rest, stdout = process.stderr.read(), process.stdout.read()
    assert process.wait(timeout=60) == 0, rest
    process.stderr.close()
    process.stdout.close()
    assert rest.splitlines()[-1].startswith("next: bitfront resume one")
    assert stdout.splitlines()[-1].startswith("one ")
    assert 8 <= len(trials(run, "one")) < 16
    assert run("resume", "one").returncode == 0
    assert len(trials(run, "one")) == 16


@pytest.mark.parametrize(
    ("named", "old", "new"),
    [("weights", "lr=0.02", "lr=0.03"), ("data", "data_shift: float = 0.0", "data_shift: float = 0.5")],
)
def test_resume_refuses_other_weights_or_data(run: Run, tmp_path: Path, named: str, old: str, new: str) -> None:
    """The experiment names the user's function; what it returns has changed since."""
    module = (Path(__file__).parent / "own_task.py").read_text()
    sys.modules.pop("changing", None)
    (tmp_path / "changing.py").write_text(module)
    assert run("sweep", experiment(tmp_path, change=("own_task:make", "changing:make"))).returncode == 0
    (tmp_path / "changing.py").write_text(module.replace(old, new))
    sys.modules.pop("changing")
    found = run("resume", "one")
    assert found.returncode == 2
    assert f"bound to other {named} than" in found.stderr


def test_task_that_neither_seeds_nor_keeps_an_order_can_be_resumed(run: Run, tmp_path: Path) -> None:
    change = ("own_task:make", "own_task:shuffled")
    for name in ("one", "two"):
        torch.manual_seed(len(name) + ord(name[0]))
        assert run("sweep", experiment(tmp_path, name, change=change), "search.trials=7", "search.searcher=random").returncode == 0
    assert [row["accuracy_valid"] for row in trials(run, "one")] == [row["accuracy_valid"] for row in trials(run, "two")]
    found = run("resume", "one")
    assert found.returncode == 0, found.stderr


def test_our_own_warnings_are_one_line_each() -> None:
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = one_line(Console(file=out))
        warnings.warn("never called by the example, left in float: decoder", LeftInFloatWarning, stacklevel=1)
    assert out.getvalue() == "warning: never called by the example, left in float: decoder\n"


BAD_EXPERIMENTS = {
    "missing section": (("[device]", "[search2]"), r"\[device\] is missing"),
    "unknown key": (("trials = 16", "trails = 16"), r"\[search.trails\] unknown key.*Did you mean 'trials'"),
    "zero bits": (("[2, 4, 8]", "[0, 4]"), "0 bits given; int takes 1 to 16"),
    "33 bits": (("[2, 4, 8]", "[33]"), "33 bits given"),
    "bits in words": (("[2, 4, 8]", '"four"'), "bits = 'four' given"),
    "unknown searcher": (('"tpe"', '"tpee"'), "unknown searcher 'tpee'.*Did you mean 'tpe'"),
    "unknown searcher option": (("seed = 5", "seed = 5\noptions = { starup = 1 }"), "no option 'starup'.*Did you mean 'startup'"),
    "pattern that matches nothing": (
        ("[device]", '[[space.rules]]\nfix = "encoder.*"\nweight = "int8:channel"\n[device]'),
        "'encoder.*' matches nothing",
    ),
    "budget that nothing meets": (("0.3 of float", "0.01 of float"), "no policy can meet the budget weight_bytes"),
    "budget in words": (("0.3 of float", "small"), "'small' given; write a positive number"),
    "unknown objective": (('"latency_s"]', '"latency_ms"]'), "unknown objective.*'latency_ms'"),
    "unknown device": (('"vu9p-bitserial"', '"vu9q"'), "vu9q"),
    "device that cannot run the bits": (("[2, 4, 8]", "[2, 4, 16]"), "layer '0' .linear.: vu9p-bitserial cannot run weight=int16"),
    "unknown task": (('"own_task:make"', '"digit"'), "unknown task 'digit'.*Did you mean 'digits'"),
    "task that is not there": (('"own_task:make"', '"own_task:mak"'), "has no 'mak'.*Did you mean 'make'"),
    "task that returns something else": (('"own_task:make"', '"own_task:not_a_task"'), "gave a int; it must return a bitfront.Task"),
    "unknown task option": (("options = {}", "options = { sede = 1 }"), "no option 'sede'.*Did you mean 'seed'"),
    "missing data": (('"own_task:make"', '"fashion_mnist"'), "train-images-idx3-ubyte|BITFRONT_DATA"),
    "nan in a weight": (("options = {}", "options = { nan = true }"), "NaN"),
    "task that raises": (('"own_task:make"', '"own_task:raises"'), "failed with RuntimeError: the disk is gone"),
    "every trial fails": (("options = {}", "options = { breaks = 99, raises = true }"), "no kernel for this policy"),
    "unwritable store": (('uri = "sqlite:///', 'uri = "sqlite:////proc/none'), "/proc/none"),
    "unknown backend": (("[search]", '[run]\nbackend = "cloud"\n[search]'), "unknown backend 'cloud'"),
}
FAILURES = {"task that raises", "every trial fails", "nan in a weight", "unwritable store"}


@pytest.mark.parametrize("case", BAD_EXPERIMENTS)
def test_bad_experiments_are_one_clear_message(run: Run, tmp_path: Path, case: str) -> None:
    change, message = BAD_EXPERIMENTS[case]
    found = run("sweep", experiment(tmp_path, change=change))
    assert found.returncode in ({1, 2} if case in FAILURES else {2}), found.stderr
    assert re.search(message, found.stderr, flags=re.S), found.stderr
    assert "Traceback" not in found.stderr
    assert not found.stdout
    if case != "every trial fails":
        assert not (tmp_path / "mlflow.db").exists(), "nothing half-written"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["swep"], 2, "No such command 'swep'"),
        (["sweep"], 2, "Missing argument"),
        (["sweep", "none.toml"], 2, "cannot read the experiment file none.toml"),
        (["front", "none"], 2, "no record at sqlite:.*mlflow.db does not exist"),
        (["resume", "none"], 2, "no record at sqlite:.*mlflow.db does not exist"),
        (["list", "searcher"], 2, "Did you mean 'searchers'"),
        (["evaluate", "--task", "own_task:make"], 2, "either --policy TEXT"),
        (["evaluate", "--task", "own_task:make", "--policy", "weight=int4:chanel"], 2, "Did you mean 'channel'"),
        (["evaluate", "--task", "own_task:raises", "--policy", "weight=int99"], 2, "99 bits given; int takes 1 to 16"),
        (["evaluate", "--task", "own_task:make", "--policy-file", "none.json"], 2, "cannot read the policy none.json"),
        (["evaluate", "--task", "own_task:make", "--policy", "weight=int4:channel", "--option", "seed"], 2, "not of the form key=value"),
        (["init", "/proc/none/x.toml"], 2, "cannot write /proc/none/x.toml"),
        (["devices", "show", "none"], 2, "none"),
    ],
)
def test_bad_command_lines_are_one_clear_message(run: Run, arguments: list[str], code: int, message: str) -> None:
    found = run(*arguments)
    assert found.returncode == code
    assert re.search(message, found.stderr, flags=re.S), found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback_wherever_it_stands(run: Run, tmp_path: Path, place: int) -> None:
    arguments = ["sweep", str(experiment(tmp_path, change=("own_task:make", "own_task:raises")))]
    assert run(*arguments).returncode == 1
    with pytest.raises(BitfrontError, match="the disk is gone") as raised:
        run(*arguments[:place], "--debug", *arguments[place:])
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_ctrl_c_before_the_first_trial_says_so(run: Run, tmp_path: Path) -> None:
    found = run("sweep", experiment(tmp_path, change=("own_task:make", "own_task:interrupted")))
    assert found.returncode == 130
    assert "interrupted; a sweep that had begun can be continued: `bitfront resume NAME`" in found.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".toml"] == []


def test_policy_of_another_network_is_refused(run: Run, tmp_path: Path) -> None:
    policy = {"schema": "bitfront.policy/1", "layers": {"conv1": {"weight": "int4:channel", "activation": "int8:tensor"}}}
    (tmp_path / "p.json").write_text(json.dumps(policy))
    found = run("apply", "p.json", "--task", "own_task:make")
    assert found.returncode == 2
    assert "is for another network" in found.stderr


def test_sweep_with_failing_trials_goes_on_and_says_so(run: Run, tmp_path: Path) -> None:
    found = run("sweep", experiment(tmp_path, options="{ breaks = 4 }"))
    assert found.returncode == 0, found.stderr
    rows = trials(run, "one")
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed
    assert len(rows) == 16
    assert all("NaN or infinity" in str(row["reason"]) for row in failed)
    assert f"{len(failed)} failed" in found.stderr
    assert f"trial {failed[0]['trial']} failed" in found.stderr


def test_init_writes_an_experiment_that_is_valid(run: Run, tmp_path: Path) -> None:
    assert run("init", "mine.toml").returncode == 0
    assert "exists" in run("init", "mine.toml").stderr
    assert run("init", "mine.toml", "--force").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "formats"], ["list", "schedulers"], ["list", "searchers"], ["list", "tasks"], ["devices"]]
)
def test_quick_commands_load_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    heavy = "{'torch', 'mlflow', 'ray', 'optuna', 'stable_baselines3', 'plotly', 'onnx'}"
    code = "try: main()\nexcept SystemExit as e: assert not e.code\n"
    code = f"import sys; sys.argv = ['bitfront', *{arguments}]\nfrom search.cli.app import main\n{code}"
    code += f"loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_other_budgets_are_solved_without_scoring_again(run: Run, tmp_path: Path) -> None:
    assert run("sweep", experiment(tmp_path), "search.searcher=ilp", "search.trials=8").returncode == 0
    found = run("solve", "one", "--budget", "weight_bytes=0.2 of float", "--budget", "latency_s=1", "--out", "tight.json", "--json")
    assert found.returncode == 0, found.stderr
    solved = json.loads(found.stdout)
    assert solved["scored"] == 0
    assert solved["cost"]["weight_bytes"] <= 0.2 * 4 * (12 * 24 + 24 * 24 + 24 * 3)
    applied = json.loads(run("apply", "tight.json", "--task", "own_task:make", "--json").stdout)
    assert applied["weight_bytes"] == solved["cost"]["weight_bytes"]
    assert run("cost", "tight.json", "--device", "vu9p-bitserial").returncode == 0
    assert "'tiny' given" in run("solve", "one", "--budget", "weight_bytes=tiny").stderr
    assert "METRIC=LIMIT" in run("solve", "one", "--budget", "small").stderr


def test_training_recovers_what_two_bits_lose(run: Run) -> None:
    policy = "weight=int2:channel:mse,activation=int4:tensor:octav"
    found = run("evaluate", "--task", "digits", "--policy", policy, "--qat", "lsq", "--epochs", 2, "--seed", 1, "--json")
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout)
    assert figures["accuracy_ptq_test"] == figures["accuracy_test"]
    assert figures["accuracy_qat_test"] > figures["accuracy_ptq_test"] + 0.05
    assert found.stderr.count("epoch") == 2
    assert "unknown QAT method 'lsk'" in run("evaluate", "--task", "own_task:make", "--policy", policy, "--qat", "lsk").stderr


def test_sweep_that_trains_every_policy(run: Run, tmp_path: Path) -> None:
    path = experiment(tmp_path, change=("[search]", '[evaluate]\nfidelity = "qat"\nqat = { method = "ste", epochs = 2 }\n[search]'))
    found = run("sweep", path, "search.searcher=random", "search.trials=7")
    assert found.returncode == 0, found.stderr
    rows = trials(run, "one")
    assert run("sweep", path, "search.searcher=random", "search.trials=7", "name=ptq", "evaluate.fidelity=ptq").returncode == 0
    pairs = list(zip(rows, trials(run, "ptq"), strict=True))
    assert all(trained["id"] == quantized["id"] for trained, quantized in pairs)
    assert sum(trained["accuracy_valid"] != quantized["accuracy_valid"] for trained, quantized in pairs) >= 3
    assert "qat has no field 'epoch'" in run("sweep", path, "evaluate.qat.epoch=1").stderr


def test_loss_may_be_what_is_minimized(run: Run, tmp_path: Path) -> None:
    found = run("sweep", experiment(tmp_path, change=('["error"', '["loss"')), "search.trials=8")
    assert found.returncode == 0, found.stderr
    members = json.loads(run("front", "one", "--json").stdout)
    assert members
    record = read(f"sqlite:///{tmp_path}/mlflow.db", "one")
    assert record.objectives == ("loss", "weight_bytes", "latency_s")
    able = [trial for trial in record.trials if trial.result.cost["weight_bytes"] <= record.limits["weight_bytes"]]
    best = min(able, key=lambda trial: trial.result.metrics["loss"])
    assert best.number in {row["trial"] for row in members}


def test_a_sweep_that_breaks_off_can_be_resumed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("search.sweeps.run.evaluate_front_on_test", broken)
        found = run("sweep", experiment(tmp_path))
    assert found.returncode == 1
    assert "the disk is full" in found.stderr
    assert read(f"sqlite:///{tmp_path}/mlflow.db", "one").status == "stopped"
    assert run("resume", "one").returncode == 0
    assert all(row["accuracy_test"] is not None for row in json.loads(run("front", "one", "--json").stdout))


LADDER = (
    "[search]",
    '[evaluate]\nladder = ["adaround", "qat"]\ntop_k = 3\nepochs = 2\nqat = { method = "lsq", lr = 0.01 }\n[search]',
)


def test_what_is_near_the_front_climbs_the_ladder(run: Run, tmp_path: Path) -> None:
    found = run("sweep", experiment(tmp_path, change=LADDER), "search.searcher=random", "search.trials=9")
    assert found.returncode == 0, found.stderr
    rows = trials(run, "one")
    assert [row["fidelity"] for row in rows] == ["ptq"] * 9 + ["adaround"] * 3 + ["qat"] * 3
    assert [row["origin"] for row in rows[9:]] == ["ladder"] * 6
    members = json.loads(run("front", "one", "--json").stdout)
    assert all(row["accuracy_test"] is not None for row in members)
    trained = [row for row in members if row["fidelity"] == "qat"]
    assert trained, "training gains at two bits"
    record = read(f"sqlite:///{tmp_path}/mlflow.db", "one")
    best = record.trials[trained[0]["trial"]]
    assert [len(trial.result.epochs) for trial in record.trials] == [0] * 12 + [2] * 3
    assert best.result.epochs[-1]["accuracy"] == best.result.metrics["accuracy"]
    assert f"by ladder, {best.result.fidelity}" in re.sub(r"\s+", " ", run("show", "one", best.policy.id).stdout)
    out = tmp_path / "out"
    assert run("export", "one", "--pick", best.policy.id, "-f", "safetensors", "--out", out).returncode == 0
    report = json.loads((out / "export.json").read_text())
    assert report["metrics"]["valid"]["accuracy"] == best.result.metrics["accuracy"], "trained again, or taken from the cache"
    assert report["metrics"]["test"]["accuracy"] == best.test["accuracy"]
    assert "Trained under the policy by `lsq` for 2 epochs, from the float weights." in (out / "README.md").read_text()
    shown = _child(f"sqlite:///{tmp_path}/mlflow.db", record.run_id, best.number)
    assert shown["params"]["fidelity"] == "qat"
    assert shown["epochs"] == [1, 2]


def _child(uri: str, parent: str, number: int) -> dict[str, Any]:
    """Return parameters and steps of the training curve of a trial's run, through MLflow itself."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    query = f"tags.`bitfront.trial_uid` = '{parent}:{number}'"
    (found,) = client.search_runs([each.experiment_id for each in client.search_experiments()], query)
    steps = [each.step for each in client.get_metric_history(found.info.run_id, "epoch_accuracy")]
    return {"params": found.data.params, "epochs": steps}


def test_a_ladder_that_is_killed_goes_on(run: Run, tmp_path: Path, finished_trials: Callable[[str], dict[str, list[int]]]) -> None:
    command = ["search.searcher=random", "search.trials=6", "evaluate.start=nearest"]
    assert run("sweep", experiment(tmp_path, "whole", change=LADDER), *command).returncode == 0
    shutil.rmtree(tmp_path / "cache")
    path = experiment(tmp_path, "part", change=LADDER)
    arguments = [sys.executable, "-m", "search", "sweep", str(path), *command, "--log", "json"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["done"] >= 10:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert 10 <= len(trials(run, "part")) < 12
    assert run("resume", "part").returncode == 0
    keys = ("trial", "id", "accuracy_valid", "accuracy_test", "weight_bytes", "status", "origin", "fidelity", "front")
    part, whole = ([[row[key] for key in keys] for row in trials(run, name)] for name in ("part", "whole"))
    assert part == whole
    assert finished_trials(f"sqlite:///{tmp_path}/mlflow.db") == {"whole": list(range(12)), "part": list(range(12))}


def test_a_population_breeds_how_policies_are_trained(run: Run, tmp_path: Path) -> None:
    bred = 'scheduler = "pbt"\nscheduler_options = { members = 3 }\n'
    path = experiment(tmp_path, change=("[search]", f"[run]\n{bred}{LADDER[1]}"))
    options = ("search.searcher=random", "search.trials=5", 'evaluate.ladder=["qat"]', "evaluate.top_k=2", "evaluate.qat.distill=0.2")
    found = run("sweep", path, *options)
    assert found.returncode == 0, found.stderr
    record = read(f"sqlite:///{tmp_path}/mlflow.db", "one")
    trained = [trial for trial in record.trials if trial.result.fidelity == "qat"]
    assert len(trained) == 2
    for trial in trained:
        assert [set(epoch) >= {"lr", "distill", "accuracy"} for epoch in trial.result.epochs] == [True, True]
        assert trial.result.epochs[-1]["accuracy"] == trial.result.metrics["accuracy"]
    assert "members = 1 of scheduler 'pbt' given" in run("sweep", path, *options, "name=two", "run.scheduler_options.members=1").stderr
