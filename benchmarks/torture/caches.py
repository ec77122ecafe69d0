"""Damaged files outside of the record: trained weights, sensitivities, the note that a sweep is trusted. Each is noticed, and made anew."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from search.evaluation import sensitivity
from search.records.record import SweepRecord
from search.sweeps import trust
from search.tasks.cache import trained

Harm = Callable[[bytes], bytes]
KINDS = ("weights", "sensitivities", "trusted")
_RISES = [[0.0, 0.25], [0.0, 0.5]]


def survives(kind: str, folder: Path, harm: Harm) -> bool:
    """Write a file of a kind, harm it, and tell whether what it held is then as it was, or made anew, and never something else."""
    with _cache(folder / "cache"):
        return {"weights": _weights, "sensitivities": _sensitivities, "trusted": _trusted}[kind](folder / "cache", harm)


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("BITFRONT_CACHE")
    folder.mkdir()
    os.environ["BITFRONT_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("BITFRONT_CACHE")
        os.environ.update({} if before is None else {"BITFRONT_CACHE": before})


def _weights(folder: Path, harm: Harm) -> bool:
    state = {"w": torch.arange(64.0)}
    trained("torture", {"seed": 0}, lambda: state)
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(harm(path.read_bytes()))
    return torch.equal(trained("torture", {"seed": 0}, lambda: state)["w"], state["w"])


def _sensitivities(folder: Path, harm: Harm) -> bool:
    path = folder / "measured.json"
    path.write_bytes(harm(json.dumps({"rises": _RISES, "sha256": sensitivity._checksum(_RISES)}).encode()))
    reader: Any = SimpleNamespace(space=SimpleNamespace(cardinalities=(2, 2)))
    read = sensitivity.Sensitivity._read(reader, path)
    return read is None or np.array_equal(np.stack(read), np.array(_RISES))


def _trusted(_folder: Path, harm: Harm) -> bool:
    """Only a note that is as it was lets code run."""
    record = SweepRecord("tortured", "0" * 32, '[task]\nname = "own:make"\n', {}, ("error",), {}, {}, {}, "running")
    note = trust._note(record)
    note.parent.mkdir(parents=True)
    whole = trust._digest(record).encode()
    note.write_bytes(harm(whole))
    return trust._is_known(record) == (note.read_bytes() == whole)
