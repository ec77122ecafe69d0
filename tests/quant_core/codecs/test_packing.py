"""Packed bytes: exact sizes, a layout that a reader of the docs could decode by hand, and files of packed tensors."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quant_core.codecs.packing import pack, pack_encoded, unpack, unpack_encoded
from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.export.inspect import describe
from quant_core.export.packed_file import load_packed, save_packed
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_bytes_of_a_small_tensor_are_what_the_docs_say() -> None:
    x = torch.tensor([[1.0, -0.5, 7.0, -7.0, 2.4]])
    assert pack(x, "int4:tensor") == struct.pack("<f", 1.0) + bytes([9 | 8 << 4, 15 | 1 << 4, 10])
    assert pack(x, "binary:none") == bytes([0b10101])
    mxfp4 = pack(torch.tensor([[6.0, -0.5, 3.0]]), "mxfp4")
    assert mxfp4 == bytes([127, 0b0111 | 0b1001 << 4, 0b0101])


@pytest.mark.parametrize(
    ("text", "bits"),
    [("int4:group128", 4.125), ("mx4", 4), ("mx6", 6), ("mx9", 9), ("mxfp4", 4.25), ("mxfp6", 6.25), ("mxfp8", 8.25), ("mxint8", 8.25)],
)
def test_bits_per_element_are_the_published_ones(text: str, bits: float) -> None:
    assert len(pack(weight(8, 1024), text)) == 8 * 1024 * bits / 8
    assert len(pack(weight(8, 1024), "nvfp4")) == 8 * 1024 * 4.5 / 8 + 4
    assert len(pack(weight(8, 1024), "int4:vector16")) == 8 * 1024 * 4.25 / 8 + 8 * 4


def test_fields_that_do_not_end_on_a_byte_join_without_padding() -> None:
    spec = parse("int3:vector5:s7")
    x = weight(3, 7)
    assert spec.storage_bits((3, 7)) == 3 * 32 + 3 * 2 * 7 + 21 * 3
    data = pack(x, spec)
    assert len(data) == 26
    assert torch.equal(unpack(data, spec, (3, 7)), fake_quantize(x, spec))
    encoded = encode(x, spec)
    assert pack_encoded(unpack_encoded(data, spec, (3, 7)), spec) == data == pack_encoded(encoded, spec)


def test_large_tensors_cross_the_chunks() -> None:
    x = weight(3, 70_001)
    for text in ("int3:channel", "kmeans2:tensor", "mx4"):
        assert torch.equal(unpack(pack(x, text), text, (3, 70_001)), fake_quantize(x, text))


def test_bytes_of_the_wrong_length_are_refused() -> None:
    data = pack(weight(4, 4), "int4:channel")
    with pytest.raises(InputError, match="23 bytes given; int4:channel of shape"):
        unpack(data[:-1], "int4:channel", (4, 4))
    with pytest.raises(InputError, match="bytes given"):
        unpack_encoded(b"", parse("int4"), (0, 4))


def test_a_packed_file_gives_every_tensor_back(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {
        "conv": (weight(4, 3, 3, 3), parse("int4:channel"), 0),
        "up": (weight(3, 5, 2, 2).half(), parse("mx6"), 1),
        "book": (weight(4, 9), parse("kmeans2:tensor"), 0),
        "sign": (weight(4, 9), parse("binary:none"), 0),
        "none": (torch.empty(0, 3), parse("int8"), 0),
    }
    bias = weight(4)
    save_packed(path, tensors, plain={"bias": bias}, metadata={"task": "digits"})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_packed(path)
    assert torch.equal(loaded.pop("bias"), bias)
    for name, (tensor, spec, axis) in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], fake_quantize(tensor, spec, channel_axis=axis)), name
    rows = {row.name: row for row in describe(path)}
    assert list(rows) == sorted(rows)
    assert (rows["conv"].spec, rows["conv"].shape, rows["conv"].bytes) == ("int4:channel", (4, 3, 3, 3), 4 * 4 + 54)
    assert rows["conv"].bits_per_element == pytest.approx(8 * 70 / 108)
    scales = encode(*tensors["conv"][:2]).scale
    assert scales is not None
    assert (rows["conv"].scales, rows["conv"].scale_low) == (4, float(scales.min()))
    assert (rows["book"].scales, rows["sign"].scales, rows["sign"].scale_low) == (4, 0, None)
    assert (rows["bias"].spec, rows["bias"].bits_per_element, rows["none"].bits_per_element) == ("float32", 32.0, 0.0)


def test_bad_files_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="'w': 1 NaN"):
        save_packed(path, {"w": (torch.tensor([[float("nan")]]), parse("int8"), 0)})
    with pytest.raises(InputError, match=r"tensors w are given both"):
        save_packed(path, {"w": (weight(2, 2), parse("int8"), 0)}, plain={"w": weight(2)})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="is no file"):
        load_packed(path)
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match="no safetensors file"):
        describe(path)


def test_damaged_metadata_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good = {"spec": "int8:tensor", "shape": [2, 2], "channel_axis": 0, "dtype": "float32"}
    for name, entry, message in (
        ("w", good | {"spec": "int99"}, "no packed tensor"),
        ("w", good | {"dtype": "int8"}, "it is damaged"),
        ("w", good | {"channel_axis": 5}, "it is damaged"),
        ("w", good | {"shape": [3, 3]}, "tensor 'w': 8 bytes given"),
        ("other", good, r"tensors other, which the file does not hold"),
    ):
        save_file({"w": torch.zeros(8, dtype=torch.uint8)}, path, metadata={f"tensor.{name}": json.dumps(entry)})
        assert "w" in load_file(path)
        for read in (load_packed, describe):
            with pytest.raises(InputError, match=message):
                read(path)
