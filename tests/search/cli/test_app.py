"""The command line: bad usage, tracebacks, warnings, quick commands."""

import io
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError, LeftInFloatWarning
from search.cli.app import one_line
from search.cli.terminal import Terminal

MakeExperiment = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_our_own_warnings_are_one_line_each() -> None:
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = one_line(Terminal(file=out))
        warnings.warn("never called by the example, left in float: decoder", LeftInFloatWarning, stacklevel=1)
    assert out.getvalue() == "warning: never called by the example, left in float: decoder\n"


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
    answer = run(*arguments)
    assert answer.returncode == code
    assert re.search(message, answer.stderr, flags=re.S), answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_traceback_wherever_it_stands(run: Run, tmp_path: Path, place: int, experiment: MakeExperiment) -> None:
    arguments = ["sweep", str(experiment(change=("own_task:make", "own_task:raises")))]
    assert run(*arguments).returncode == 1
    with pytest.raises(BitfrontError, match="the disk is gone") as raised:
        run(*arguments[:place], "--debug", *arguments[place:])
    assert isinstance(raised.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "formats"], ["list", "schedulers"], ["list", "searchers"], ["list", "tasks"], ["devices"]]
)
def test_quick_commands_load_nothing_heavy(tmp_path: Path, arguments: list[str], environment: dict[str, str]) -> None:
    heavy = "{'torch', 'mlflow', 'ray', 'optuna', 'stable_baselines3', 'plotly', 'onnx'}"
    code = "try: main()\nexcept SystemExit as e: assert not e.code\n"
    code = f"import sys; sys.argv = ['bitfront', *{arguments}]\nfrom search.cli.app import main\n{code}"
    code += f"loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
