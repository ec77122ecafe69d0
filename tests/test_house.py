"""The house rules that no linter holds: one home per heavy dependency, small modules, torch-free nouns."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bitfront", "quant_core", "spaces", "hw_models", "search")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HOMES = {
    "mlflow": ("search/tracking/", "search/exporters/registry.py"),
    "ray": ("search/sweeps/ray/",),
    "optuna": ("search/searchers/optuna/", "search/searchers/auto.py"),
    "stable_baselines3": ("search/searchers/haq/",),
    "gymnasium": ("search/searchers/haq/",),
    "onnx": ("quant_core/export/", "hw_models/profiling/"),
    "onnxruntime": ("quant_core/export/", "hw_models/profiling/"),
    "plotly": ("search/report/",),
    "pandas": ("bitfront/",),
}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_dependencies_stay_in_their_home(path: Path) -> None:
    where = path.relative_to(ROOT).as_posix()
    strays = {name for name in _imported(path) & set(HOMES) if not where.startswith(HOMES[name])}
    assert not strays, f"{where} imports {strays}; their homes are {[HOMES[name] for name in strays]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_small(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 300, f"{path.name} is longer than 300 lines: split it"
    sizes = {node.name: _lines(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    long = {name: lines for name, lines in sizes.items() if lines > 44}
    assert not long, f"{path.name}: functions over 44 lines beside their docstring: {long}"


def _lines(function: ast.FunctionDef) -> int:
    """Count the lines of a function beside its docstring: public functions have long ones, with examples."""
    first, docstring = function.body[0], ast.get_docstring(function)
    return (function.end_lineno or 0) - function.lineno + 1 - ((first.end_lineno or 0) - first.lineno + 1 if docstring else 0)


@pytest.mark.parametrize("module", ["quant_core", "spaces.rules", "hw_models", "search.problem.problem", "search.records.result"])
def test_nouns_are_free_of_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
