"""Packed tensors in a safetensors file: the bytes of `pack`, and beside them the spec, shape, channel axis and dtype of each tensor."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.packing import pack, pack_encoded, unpack
from quant_core.network.parameters import from_matrix, matrix_shape
from quant_core.spec.quant_spec import QuantSpec, parse
from quant_core.util.errors import InputError
from quant_core.util.files import write_bytes
from quant_core.util.reading import parse_json
from quant_core.util.text import cut, given, listed

SCHEMA = "bitfront.packed/1"
LARGEST = 2**31 - 1
"""Of one size in a shape."""
MOST_ELEMENTS = 2**48
_UNREADABLE = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)
"""Errors of the safetensors library and of torch on a file that is none of theirs, or has a dtype that torch does not know."""
_DEFAULTS = {"channel_axis": 0, "dtype": "float32", "contraction_axis": -1}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}


@dataclass(frozen=True, slots=True)
class Entry:
    """The metadata of a packed tensor.

    Attributes:
        spec: the text form of its `QuantSpec`.
        shape: of the tensor.
        channel_axis: axis of the output channels.
        dtype: of the tensor before packing, without "torch.".
        contraction_axis: of a stack of matrices, the axis that is summed over: the codes are those of the matrix [all other axes, this
            axis], with its channels on axis 0. -1 for every other tensor.
    """

    spec: str
    shape: tuple[int, ...]
    channel_axis: int = 0
    dtype: str = "float32"
    contraction_axis: int = -1

    @property
    def coded_shape(self) -> tuple[int, ...]:
        """The shape in which the codes stand."""
        return self.shape if self.contraction_axis < 0 else matrix_shape(self.shape, self.contraction_axis)


def save_packed(
    path: Path,
    tensors: Mapping[str, tuple[Tensor, QuantSpec, int]],
    *,
    plain: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    encoded: Mapping[str, Encoded] | None = None,
    stacks: Mapping[str, tuple[tuple[int, ...], int]] | None = None,
) -> None:
    """Write name -> (tensor, spec, channel axis) packed, and `plain` tensors (biases, running statistics) as they are, to `path`.

    The file is a safetensors file with one uint8 tensor per packed tensor; its metadata hold `bitfront` (the schema), one JSON entry per
    packed tensor under `tensor.NAME`, and `metadata`. It is written to a temporary name first. Codes given in
    `encoded` (of AdaRound, say) are stored instead of encoding the tensor of that name afresh. `stacks` holds (shape, contraction axis) of
    tensors that are given as the matrix of a stack of matrices; they are read back in that shape.

    Raises:
        InputError: a tensor that cannot be packed (its name is in the message), or a name given twice.
    """
    twice = sorted(set(tensors) & set(plain or {}))
    if twice:
        raise InputError(f"tensors {listed(twice)} are given both packed and plain; give each once.")
    stored = {name: tensor.detach().contiguous() for name, tensor in (plain or {}).items()}
    notes = dict(metadata or {}) | {"bitfront": SCHEMA}
    for name, (tensor, spec, axis) in tensors.items():
        try:
            codes = (encoded or {}).get(name)
            data = pack(tensor, spec, channel_axis=axis) if codes is None else pack_encoded(codes, spec)
        except InputError as error:
            raise InputError(f"tensor {name!r}: {error}") from None
        stored[name] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        shape, contraction = (stacks or {}).get(name, (tuple(tensor.shape), -1))
        entry = Entry(str(spec), shape, axis, str(tensor.dtype).removeprefix("torch."), contraction)
        notes[f"tensor.{name}"] = json.dumps(_short(entry))
    write_bytes(path, canonical(save(stored, metadata=notes)))


def canonical(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in the order of their names: the library writes another order in every process.

    The header is JSON behind its length in 8 bytes, little-endian, filled up by spaces to a multiple of 8 bytes; offsets of tensors count
    from its end (https://github.com/huggingface/safetensors#format).
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    notes = dict(sorted(header.pop("__metadata__").items()))
    text = json.dumps({"__metadata__": notes, **header}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _short(entry: Entry) -> dict[str, object]:
    """Return an entry without its default values."""
    return {key: value for key, value in asdict(entry).items() if value != _DEFAULTS.get(key)}


def load_packed(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a file: packed ones unpacked in their dtype, plain ones as they are.

    Raises:
        InputError: no safetensors file, or an entry that does not fit its bytes.
    """
    entries, stored, _ = read_packed(path)
    return {name: _unpacked(name, tensor, entries.get(name)) for name, tensor in stored.items()}


def read_packed(path: Path) -> tuple[dict[str, Entry], dict[str, Tensor], dict[str, str]]:
    """Return (entry of every packed tensor, every stored tensor, the metadata) of a file.

    Raises:
        InputError: it does not exist, is no safetensors file, or has a broken entry.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as source:
            notes: dict[str, str] = dict(source.metadata() or {})
            stored = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
    except _UNREADABLE as error:
        raise InputError(f"{path} is no safetensors file: {cut(str(error), 500)}") from None
    prefix = "tensor."
    entries = {key.removeprefix(prefix): _entry(path, key, text) for key, text in notes.items() if key.startswith(prefix)}
    missing = sorted(set(entries) - set(stored))
    wrong = [name for name in entries if name in stored and (stored[name].dtype, stored[name].dim()) != (torch.uint8, 1)]
    if missing:
        raise InputError(f"{path}: metadata describe tensors {listed(missing)}, which the file does not hold; it is damaged.")
    if wrong:
        raise InputError(f"{path}: packed tensors {listed(wrong)} are not stored as rows of bytes; the file is damaged.")
    return entries, stored, notes


def _entry(path: Path, key: str, text: str) -> Entry:
    try:
        raw = _DEFAULTS | parse_json(text, "its value")
        entry = Entry(
            str(parse(_text(raw["spec"]))),
            _shape(raw["shape"]),
            int(raw["channel_axis"]),
            _text(raw["dtype"]),
            int(raw["contraction_axis"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: metadata {given(key)} is no packed tensor: {cut(str(error), 500)}") from None
    if entry.dtype not in _DTYPES or not -len(entry.shape) <= entry.channel_axis < max(1, len(entry.shape)):
        raise InputError(
            f"{path}: metadata {given(key)} has dtype {given(entry.dtype)} and channel axis {entry.channel_axis}; it is damaged."
        )
    if not -1 <= entry.contraction_axis < len(entry.shape) or (entry.contraction_axis >= 0 and entry.channel_axis):
        raise InputError(f"{path}: metadata {given(key)} has contraction axis {entry.contraction_axis}; it is damaged.")
    return entry


def _shape(sizes: Iterable[object]) -> tuple[int, ...]:
    """Return a shape whose strides are numbers of 64 bits, also where one of its sizes is 0."""
    shape = tuple(map(_size, sizes))
    if math.prod(max(size, 1) for size in shape) > MOST_ELEMENTS:
        raise ValueError(f"shape {given(shape)} has more elements than any tensor")
    return shape


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{given(value)} given where a text is needed")
    return value


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise TypeError(f"size {given(value)} given; a whole number from 0 to {LARGEST} is needed")
    return value


def _unpacked(name: str, stored: Tensor, entry: Entry | None) -> Tensor:
    if entry is None:
        return stored
    data = stored.numpy().tobytes()
    try:
        tensor = unpack(data, entry.spec, entry.coded_shape, channel_axis=entry.channel_axis, dtype=_DTYPES[entry.dtype])
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from None
    return tensor if entry.contraction_axis < 0 else from_matrix(tensor, entry.shape, entry.contraction_axis).contiguous()
