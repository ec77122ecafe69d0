"""A GGUF file, written and read by the gguf library: fields of metadata, tensors in their types, and the values that they decode to."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.util.errors import BitfrontError, InputError

Field = str | int | float | bool | Sequence[str] | Sequence[float] | Sequence[int]
QUANTIZATION_VERSION, MOSTLY = 2, {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12}
MOSTLY |= {"Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "BF16": 32, "TQ2_0": 37, "MXFP4": 38, "NVFP4": 39}
"""Type -> `general.file_type`, the number of llama.cpp's `llama_ftype` (include/llama.h) for files of mostly that type."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of a file.

    Attributes:
        kind: name of its type in `gguf.GGMLQuantizationType`.
        shape: as torch has it.
        data: float32 values, or rows of the bytes of a quantized type.
    """

    kind: str
    shape: tuple[int, ...]
    data: NDArray[Any]


def library() -> Any:
    """Return the gguf library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InputError(f"the format gguf needs the gguf library ({error}): pip install 'bitfront[gguf]'.") from error
    return gguf


def write(path: Path, architecture: str, fields: Mapping[str, Field], tensors: Mapping[str, Stored]) -> None:
    """Write a file.

    Args:
        path: of the file.
        architecture: value of `general.architecture`.
        fields: the rest of the metadata, by full names. A list of numbers of one type is an array; whole numbers are 32 bits wide.
        tensors: by name.
    """
    gguf = library()
    writer = gguf.GGUFWriter(path, architecture)
    sizes: dict[str, int] = {}
    for stored in tensors.values():
        sizes[stored.kind] = sizes.get(stored.kind, 0) + int(np.prod(stored.shape))
    quantized = {kind: size for kind, size in sizes.items() if kind not in ("F32", "F16", "BF16")}
    writer.add_file_type(MOSTLY[max(quantized, key=quantized.__getitem__) if quantized else "F32"])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    for name, value in fields.items():
        _add(writer, name, value)
    for name, stored in tensors.items():
        kind = None if stored.kind == "F32" else gguf.GGMLQuantizationType[stored.kind]
        writer.add_tensor(name, np.ascontiguousarray(stored.data), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add(writer: Any, name: str, value: Field) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_int32(name, value) if name.startswith("tokenizer.ggml.token_type_") else writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, NDArray[np.float32]]]]:
    """Return (metadata, name -> (type, values as `gguf.quants.dequantize` gives them)) of a file.

    Raises:
        BitfrontError: the library cannot read it.
    """
    gguf = library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = gguf.GGUFReader(path)
            fields = {name: field.contents() for name, field in reader.fields.items()}
            tensors = {tensor.name: (tensor.tensor_type.name, _values(gguf, tensor)) for tensor in reader.tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BitfrontError(f"the gguf library cannot read {path.name}: {type(error).__name__}: {error}. Nothing was written.") from error
    return fields, tensors


def _values(gguf: Any, tensor: Any) -> NDArray[np.float32]:
    values: NDArray[np.float32] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values.reshape(tuple(int(size) for size in reversed(tensor.shape)))


def dequantized(data: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """Return the values of rows of bytes of a type."""
    gguf = library()
    values: NDArray[np.float32] = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind])
    return values
