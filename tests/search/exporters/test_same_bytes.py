"""Two exports of one policy, in two processes, are the same bytes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXPORT = """
import sys
from pathlib import Path
from search.exporters.flow import export
for trial, formats in ("0", "safetensors onnx c-array card policy"), ("1", "torchao vllm safetensors onnx policy"):
    export(sys.argv[1], "same", trial, formats.split(), Path(sys.argv[2], trial), force=True)
"""


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory, sweep: Callable[..., str]) -> str:
    """Return a store with one sweep, `same`: trial 0 fits microcontrollers, trial 1 transformer runtimes."""
    folder = tmp_path_factory.mktemp("same")
    weight, activation = '["int4:channel", "int8:channel"]', '["int8:tensor:ema", "float"]'
    return sweep(folder, name="same", task="own_task:make", weight=weight, activation=activation, trials=6)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_exports_are_the_same_bytes(tmp_path: Path, same: str) -> None:
    exports = []
    for seed in ("1", "2"):
        paths = os.pathsep.join((str(ROOT), str(Path(__file__).parents[1])))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": seed}
        command = [sys.executable, "-W", "ignore", "-c", EXPORT, same, str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        exports.append(files(tmp_path / "out"))
    first, second = exports
    assert {Path(name).parts[0] for name in first} == {"0", "1"}
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []
