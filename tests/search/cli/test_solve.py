"""`solve`: other budgets from the sensitivities of a sweep."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quant_core.spec.policy import Policy
from search.cli.solve import _show
from tests.search.conftest import MakeSweep

MakeExperiment = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_other_budgets_are_solved_without_scoring_again(run: Run, tmp_path: Path, experiment: MakeExperiment) -> None:
    assert run("sweep", experiment(), "search.searcher=ilp", "search.trials=8").returncode == 0
    answer = run("solve", "one", "--budget", "weight_bytes=0.2 of float", "--budget", "latency_s=1", "--out", "tight.json", "--json")
    assert answer.returncode == 0, answer.stderr
    solved = json.loads(answer.stdout)
    assert solved["scored"] == 0
    assert solved["proven"] is True
    assert solved["gap"] <= 1e-9 * solved["estimated_loss_rise"]
    assert solved["bound"] == solved["estimated_loss_rise"] - solved["gap"]
    assert solved["cost"]["weight_bytes"] <= 0.2 * 4 * (12 * 24 + 24 * 24 + 24 * 3)
    applied = json.loads(run("apply", "tight.json", "--task", "own_task:make", "--json").stdout)
    assert applied["weight_bytes"] == solved["cost"]["weight_bytes"]
    assert run("cost", "tight.json", "--device", "vu9p-bitserial").returncode == 0
    shown = run("solve", "--budget", "weight_bytes=0.2 of float", "--budget", "latency_s=1", "--evaluate").stdout
    assert f"{100 * solved['estimated_accuracy']:.2f} % estimated from the trials, " in shown
    assert f"{100 * applied['accuracy_valid']:.2f} % measured on valid, {100 * applied['accuracy_test']:.2f} % measured on test" in shown
    assert "to export it: bitfront export one --pick FILE.json --out FOLDER" in shown
    rows = json.loads(run("solve", "one", "--front", "weight_bytes", "--json").stdout)
    sizes, rises = ([row[key] for row in rows] for key in ("weight_bytes", "estimated_loss_rise"))
    assert (sizes, rises) == (sorted(sizes), sorted(rises, reverse=True))
    assert len(rows) > 4
    assert "unknown cost 'bytes'" in run("solve", "--front", "bytes").stderr
    assert "give --budget METRIC=LIMIT, or --front METRIC" in run("solve").stderr
    exported = run("export", "one", "--pick", "tight.json", "--out", "out", "-f", "safetensors")
    assert exported.returncode == 0, exported.stderr
    assert (
        json.loads((tmp_path / "out" / "policy.json").read_text())["layers"] == json.loads((tmp_path / "tight.json").read_text())["layers"]
    )
    assert "--pick policy.json --out DIR" in next((tmp_path / "out").glob("*.md")).read_text()
    assert "--pick knee and --max-drop 1 given" in run("export", "one", "--pick", "knee", "--max-drop", "1", "--out", "o").stderr
    assert "proven optimal; no policy within the budget has less than" in shown
    assert "'tiny' given" in run("solve", "one", "--budget", "weight_bytes=tiny").stderr
    assert "METRIC=LIMIT" in run("solve", "one", "--budget", "small").stderr


CHANGING = "import own_task\n\n\ndef make() -> own_task.Task:\n    return own_task.make({seed})\n"
SMALL = ("search.searcher=ilp", "search.trials=4", "task.name=changing_task:make")
QUIET = """
import sys
from search.cli.app import main
sys.argv = ["bitfront", "solve", "one", "--budget", "weight_bytes=0.2 of float"]
try:
    main()
except SystemExit:
    sys.exit(" ".join({"torch", "mlflow", "numba", "sklearn"} & set(sys.modules)))
"""


def test_a_recorded_sweep_is_solved_without_its_network_unless_that_changed(
    run: Run, tmp_path: Path, experiment: MakeExperiment, environment: dict[str, str]
) -> None:
    source = tmp_path / "changing_task.py"
    source.write_text(CHANGING.format(seed=0))
    swept = run("sweep", experiment(), *SMALL)
    assert swept.returncode == 0, swept.stderr
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/mlflow.db"
    quiet = subprocess.run([sys.executable, "-c", QUIET], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert quiet.stderr.strip() == ""
    assert "proven optimal" in quiet.stdout
    source.write_text(CHANGING.format(seed=123))
    sys.modules.pop("changing_task")
    refused = run("solve", "one", "--budget", "weight_bytes=0.2 of float")
    sys.modules.pop("changing_task")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "sweep 'one' is bound to other weights and data than what the experiment now gives" in refused.stderr


def test_an_answer_that_is_not_proven_says_so(capsys: pytest.CaptureFixture[str], make_sweep: MakeSweep) -> None:
    result = {"proven": False, "gap": 0.25, "estimated_loss_rise": 1.5, "bound": 1.25, "cost": {}, "seconds": 0.1, "scored": 0}
    record = make_sweep()
    _show(Policy({}), result | {"estimated_accuracy": None}, record)
    assert "estimated loss rise 1.5: not proven, gap 0.25; no policy within the budget has less than 1.25" in capsys.readouterr().out
