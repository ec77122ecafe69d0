"""The examples in the docstrings run as they are written."""

import doctest
import importlib
from pathlib import Path

import pytest

MODULES = sorted(path.stem for path in (Path(__file__).parents[2] / "bitfront").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, in_folder: Path) -> None:
    module = importlib.import_module("bitfront" if name == "__init__" else f"bitfront.{name}")
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
    assert results.attempted or name not in ("__init__", "sweeping", "networks", "results")
