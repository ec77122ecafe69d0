"""Batches of images."""

from pathlib import Path

import pytest
import torch

from search.tasks.images import Batches, Images, Scale


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BITFRONT_DATA", raising=False)


def test_batches_scale_lazily_and_end_with_the_rest() -> None:
    images = Images(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5))
    batches = Batches(images, 2, Scale(2.0, (1.0,), (0.5,)))
    assert len(batches) == 3
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4]]
    assert torch.cat([inputs for inputs, _ in batches]).flatten().tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
