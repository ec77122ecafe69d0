"""The evaluator on its way to workers: what they can import, and what cannot be sent."""

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.util.errors import InputError
from search.sweeps.ray.shipping import SentEvaluator, advice, shipped, user_modules

ROOT = Path(__file__).parents[4]
TASK = """
import sys
from pathlib import Path
sys.path.append(str(Path(__file__).parent / "hidden"))
from inner.net import Net
"""
NET = "class Net:\n    device = __import__('torch').device('cpu')\n    figure = 7\n"
OPEN = """
import pickle, sys
sent = pickle.loads(open(sys.argv[1], "rb").read())
print(sent.opened().figure)
"""


class Evaluator:
    """Holds what an evaluator holds, as far as pickling goes."""

    device = torch.device("cpu")

    def __init__(self, model: nn.Module, **more: object) -> None:
        self._task = type("Task", (), {})()
        self._task.model = model
        self._task.__dict__.update(more)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def locked() -> nn.Module:
    model = linear()
    model[0].guard = threading.Lock()
    return model


def closing_over_a_lock() -> object:
    lock = threading.Lock()

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        with lock:
            return outputs

    return score


@pytest.mark.parametrize(
    ("evaluator", "named"),
    [
        (lambda: Evaluator(locked()), "model.0.guard is a lock"),
        (lambda: Evaluator(linear(), score=closing_over_a_lock()), "score.lock is a lock"),
        (lambda: Evaluator(linear(), valid=[(1, 2), (3, iter([threading.Lock()]))]), "valid.1.1 is a list_iterator"),
    ],
)
def test_what_cannot_be_pickled_is_named_by_its_attribute(evaluator: Any, named: str) -> None:
    with pytest.raises(InputError, match=f"the task cannot be sent to workers: {named}, which cannot be pickled .*run.backend = 'local'"):
        shipped(evaluator(), "own:make")


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SentEvaluator:
    """Return an evaluator whose class lies in a folder that only the task's module knows."""
    inner = tmp_path / "hidden" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "lonely_task.py").write_text(TASK)
    (inner / "__init__.py").touch()
    (inner / "net.py").write_text(NET)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    import lonely_task  # type: ignore[import-not-found]

    assert {"lonely_task", "inner", "inner.net"} <= set(user_modules())
    sent = shipped(lonely_task.Net(), "lonely_task:make")
    for name in ("lonely_task", "inner", "inner.net"):
        sys.modules.pop(name)
    return sent


@pytest.mark.parametrize("files", ["there", "absent"])
def test_a_worker_imports_what_only_the_driver_could(away: SentEvaluator, tmp_path: Path, files: str) -> None:
    """A task's module that extends sys.path, or lies in the driver's folder alone: found by the path, else by its source."""
    if files == "absent":
        for path in tmp_path.rglob("*.py"):
            path.unlink()
    sent = tmp_path / "sent"
    sent.write_bytes(pickle.dumps(away))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(sent)], cwd="/", env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "7\n", done.stderr


def test_neither_python_nor_what_is_installed_nor_ours_is_sent(away: SentEvaluator) -> None:
    names = {name.partition(".")[0] for name in away.modules}
    assert not names & {"torch", "json", "search", "quant_core", "numpy", "pytest"}
    assert not [entry for entry in away.path if entry.endswith("site-packages")]
    assert str(Path(away.folder)) in away.path


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ModuleNotFoundError", "a worker on n1 cannot import what the task needs: no lib. Install it there"),
        ("FileNotFoundError", "a worker on n1 cannot read a file of the task: no lib. Put it at the same path on every node"),
        ("MemoryError", r"a worker on n1 has no memory for the network \(3 MiB\): give fewer run.workers"),
        ("TypeError", "a worker on n1 cannot take the task: TypeError: no lib. Mend it"),
    ],
)
def test_a_fault_of_a_worker_says_what_to_do(kind: str, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        raise RuntimeError(advice(kind, "no lib", "n1", 3 * 2**20))
