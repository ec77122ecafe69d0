"""The `bitfront` command and a cluster of three nodes, for the tests of sweeps on Ray."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from search.cli.app import main
from tests.forked import ran

HELPERS = Path(__file__).parents[2]  # own_task.py and own_cluster.py
ROOT = Path(__file__).parents[4]
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
[search]
searcher = "{searcher}"
trials = {trials}
seed = 5
[track]
uri = "sqlite:///{folder}/mlflow.db"
[run]
{run}
"""
LOCAL = 'backend = "local"'
Rows = list[dict[str, object]]


class Command:
    """The `bitfront` command in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"

    def write(self, name: str, run: str, options: str = "{}", searcher: str = "random", trials: int = 14) -> str:
        path = self.folder / f"{name}.toml"
        path.write_text(EXPERIMENT.format(name=name, run=run, options=options, searcher=searcher, trials=trials, folder=self.folder))
        return str(path)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Run in a process of its own, as a user does."""
        done = ran(*arguments)
        return done.returncode, done.stdout, done.stderr

    def here(self, *arguments: str) -> tuple[int, str]:
        """Run in this process, where a test can look on; return the exit code and standard output."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["bitfront", *arguments])
            with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as exit_:
                main()
        return int(exit_.value.code or 0), out.getvalue()

    def rows(self, name: str) -> Rows:
        """Return every trial as `bitfront front --all --json` shows it."""
        rows: Rows = json.loads(self.here("front", name, "--all", "--json", "--uri", self.uri)[1])
        return rows

    def sweep(self, name: str, run: str, options: str = "{}", searcher: str = "random", trials: int = 14) -> Rows:
        code, _, err = self("sweep", self.write(name, run, options, searcher, trials), "--log", "plain")
        assert code == 0, err
        return self.rows(name)

    def local(self, options: str = "{}", searcher: str = "random", trials: int = 14) -> Rows:
        """Return the trials of one process without Ray."""
        assert self.here("sweep", self.write("local", LOCAL, options, searcher, trials), "--log", "plain")[0] == 0
        return self.rows("local")


class Nodes:
    """Three nodes of one CPU each, in a process of their own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address, self._log = self._answer().split()
        assert self.address.startswith("127.0.0.1:")

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def kill_one(self) -> None:
        self._do("kill", "killed")

    def add_one(self) -> None:
        self._do("add", "added")

    def _do(self, word: str, answer: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._answer() == answer

    def log(self) -> str:
        """Return the newest lines of the GCS about actors that ended: why a worker never began."""
        lines = Path(self._log).read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if "estroy" in line or "failed" in line][-20:])

    def run(self, more: str = "") -> str:
        return f'backend = "ray"\naddress = "{self.address}"\nworkers = 2\n{more}'


def policies(rows: Rows) -> list[tuple[object, ...]]:
    return sorted((str(row["id"]), row["accuracy_valid"], row["weight_bytes"], row["status"]) for row in rows)
