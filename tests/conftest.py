"""Fixtures shared by all tests."""

import os
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
SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets and trained networks, or skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} does not exist")
    return folder
