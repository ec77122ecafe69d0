"""Fixtures shared by all tests."""

import os
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

# One thread per process, before torch is imported: two processes run tests at once, and threads that wait for a busy core spin; the haq
# searchers' tests took seven times the processor time with two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In CI the same examples every time, and no limit of time per example; elsewhere every run tries new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")
_LONG = ("slow", "ray", "browser", "postgres")
SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first that hold most of the marks of long tests, so that no worker of `--dist loadfile` ends with one of them alone.

    Left to itself, xdist begins with the files of most tests, which are quick ones: hence `--no-loadscope-reorder` in pyproject.toml.
    """
    marked: Counter[Path] = Counter()
    for item in items:
        marked[item.path] += any(item.get_closest_marker(name) for name in _LONG)
    items.sort(key=lambda item: -marked[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets and trained networks, or skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} does not exist")
    return folder
