"""Flatbuffers written by LiteRT's own schema and read back."""

from pathlib import Path

import numpy as np
import pytest

from quant_core.export.litert import flatbuffer
from quant_core.export.litert.flatbuffer import Model, Operation, Tensor, read, serialized
from quant_core.util.errors import InputError


def model() -> Model:
    data = np.arange(24, dtype=np.float32)
    tensors = [
        Tensor("x", (1, 6), "FLOAT32"),
        Tensor("w", (4, 6), "INT8", np.arange(24, dtype=np.uint8), np.full(4, 0.5, dtype=np.float32), 0, 0),
        Tensor("y", (1, 4), "FLOAT32"),
        Tensor("q", (1, 4), "INT8", None, np.array([0.25], dtype=np.float32), -7),
        Tensor("c", (24,), "FLOAT32", data.view(np.uint8)),
    ]
    operations = [
        Operation("FULLY_CONNECTED", (0, 1, -1), (2,), ("FullyConnected", {"fusedActivationFunction": "RELU6", "keepNumDims": False})),
        Operation("QUANTIZE", (2,), (3,)),
    ]
    return Model(tensors, operations, {"x": 0}, {"q": 3})


def test_a_model_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path, wanted = tmp_path / "model.tflite", model()
    path.write_bytes(serialized(wanted))
    held = read(path)
    assert (held.inputs, held.outputs) == (wanted.inputs, wanted.outputs)
    assert [(entry.code, entry.inputs, entry.outputs) for entry in held.operations] == [
        (entry.code, entry.inputs, entry.outputs) for entry in wanted.operations
    ]
    for tensor, due in zip(held.tensors, wanted.tensors, strict=True):
        assert (tensor.name, tensor.shape, tensor.kind, tensor.zero_point) == (due.name, due.shape, due.kind, due.zero_point)
        assert (tensor.data is None) == (due.data is None)
        assert due.data is None or np.array_equal(tensor.data, due.data)  # type: ignore[arg-type]
        assert due.scale is None or np.array_equal(tensor.scale, due.scale)  # type: ignore[arg-type]


def test_constants_lie_at_multiples_of_sixteen() -> None:
    pytest.importorskip("ai_edge_litert")
    data = serialized(model())
    assert data[4:8] == b"TFL3"
    assert data.index(np.arange(24, dtype=np.float32).tobytes()) % 16 == 0
    assert data.index(bytes(range(24))) % 16 == 0


def test_more_than_a_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(flatbuffer, "MOST", 100)
    with pytest.raises(
        InputError, match=r"^a file of LiteRT holds 2 GiB, the weights take 120 bytes; quantize to fewer bits, or use onnx\.$"
    ):
        serialized(model())
