"""Tensors on disk come back as they were, take no memory of the process, and leave nothing behind."""

import errno
import os
import pickle
from pathlib import Path

import pytest
import torch

from quant_core.util import spill
from quant_core.util.spill import SpillFile


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 7), (70_000,)])
def test_tensors_come_back_as_they_were(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor, other = (torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in range(2))
    file = SpillFile()
    places = [file.write(tensor), file.write(other.t() if other.dim() == 2 else other)]
    copied = pickle.loads(pickle.dumps((file, places)))
    for held, where in ((file, places), copied):
        assert torch.equal(held.read(where[0]), tensor)
        assert torch.equal(held.read(where[1]), other.t() if other.dim() == 2 else other)
    assert file.nbytes % 64 == 0
    assert file.nbytes >= 2 * tensor.nbytes


def test_room_holds_zeros_and_is_written_in_place() -> None:
    file = SpillFile()
    place = file.reserve((3, 4), torch.float32)
    for _ in range(2):
        with file.mapped(place) as stored:
            stored.add_(1.5)
    assert torch.equal(file.read(place), torch.full((3, 4), 3.0))


def test_the_file_goes_with_its_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = SpillFile()
    assert file.nbytes == 0
    file.write(torch.ones(1000))
    descriptor = file._file.fileno()
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = SpillFile()
    first = file.write(torch.ones(10))
    monkeypatch.setattr(spill, "_allocate", full)
    with pytest.raises(OSError, match="No space left"):
        file.write(torch.ones(10))
    assert file.nbytes == 64
    assert torch.equal(file.read(first), torch.ones(10))


def test_room_is_taken_where_the_platform_cannot_allocate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    file = SpillFile()
    place = file.reserve((100,), torch.int32)
    assert file._file.seek(0, 2) == file.nbytes == 448
    assert not file.read(place).any()
