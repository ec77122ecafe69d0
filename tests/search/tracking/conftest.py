"""Short waits for the tests of the writer."""

import pytest

from search.tracking import writer


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a second become waits of a moment."""
    monkeypatch.setattr(writer, "PATIENCE_S", (0.05,))
    monkeypatch.setattr(writer, "GATHER_S", 0.01)
