"""A GGUF file: fields and tensors read back, damage and an absent library in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest

from quant_core.export import gguf_file
from quant_core.util.errors import BitfrontError, InputError


def test_fields_and_tensors_read_back(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    fields: dict[str, gguf_file.Field] = {"a.text": "x", "a.number": 3, "a.share": 0.5, "a.flag": True, "a.list": ["u", "v"]}
    gguf_file.write(tmp_path / "a.gguf", "own", fields, {"w": gguf_file.Stored("F32", (3, 4), values)})
    read, tensors = gguf_file.read(tmp_path / "a.gguf")
    assert {name: read[name] for name in fields} == fields
    assert (read["general.architecture"], read["general.file_type"], tensors["w"][0]) == ("own", 0, "F32")
    np.testing.assert_array_equal(tensors["w"][1], values)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "b.gguf").write_bytes(b"GGUX" + bytes(64))
    with pytest.raises(BitfrontError, match=r"the gguf library cannot read b\.gguf: ValueError: .*Nothing was written"):
        gguf_file.read(tmp_path / "b.gguf")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"the format gguf needs the gguf library .*: pip install 'bitfront\[gguf\]'"):
        gguf_file.library()
