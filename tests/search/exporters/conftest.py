"""Fixtures of the tests of exporters."""

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _quick(forked: None) -> None:
    """Fork the processes that run exported files."""


@pytest.fixture
def library() -> Callable[[str, str], Any]:
    """Return an import of (package, module) that skips the test where the package is not installed."""

    def imported(package: str, module: str) -> Any:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        return importlib.import_module(module)

    return imported


@pytest.fixture
def quiet() -> Any:
    """Silence the warnings of these libraries when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)
