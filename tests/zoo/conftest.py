"""The zoo's files are run in forked processes."""

import pytest


@pytest.fixture(autouse=True)
def _quick(forked: None) -> None:
    """Fork the processes of every test."""
