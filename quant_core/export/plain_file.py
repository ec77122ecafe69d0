"""Tensors in a safetensors file as they are."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from quant_core.export.packed_file import canonical
from quant_core.util.files import write_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors; two files of the same tensors are the same bytes."""
    write_bytes(path, canonical(save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, dict(metadata))))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file."""
    read: dict[str, Tensor] = load(path.read_bytes())
    return read
