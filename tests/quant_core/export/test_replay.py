"""ONNX files in a fresh process: outputs, failures, latency."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from quant_core.export.replay import Latency, latency, replayed
from quant_core.util.errors import BitfrontError


def file_of(operator: str, path: Path) -> Path:
    """Write y = operator(x, w) with a vector w of two elements."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2,), [1.0, 2.0])
    graph = helper.make_graph([helper.make_node(operator, ["x", "w"], ["y"])], "test", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_batches_are_run_one_after_the_other(tmp_path: Path) -> None:
    with replayed(file_of("Add", tmp_path / "add.onnx"), ["x"]) as run:
        for count in (3, 1):
            x = torch.rand(count, 2)
            torch.testing.assert_close(run(x), x + torch.tensor([1.0, 2.0]), rtol=0, atol=0)
        with pytest.raises(BitfrontError, match=r"onnxruntime fails in a fresh process: .*invalid dimensions for input: x"):
            run(torch.rand(1, 3))


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"no graph")
    with replayed(path, ["x"]) as run, pytest.raises(BitfrontError, match="onnxruntime fails in a fresh process"):
        run(torch.rand(1, 2))


def test_latencies_are_measured_in_turns(tmp_path: Path) -> None:
    files = [file_of(operator, tmp_path / f"{operator}.onnx") for operator in ("Add", "Mul")]
    measured = latency(*files, {"x": np.ones((1, 2), dtype=np.float32)}, repeats=10)
    assert 0 < measured.quantized_s < 1
    assert 0 < measured.float_s < 1
    assert measured.checks["latency_of_float32"] == measured.ratio


@pytest.mark.parametrize(("ratio", "verdict"), [(0.5, "2.0 x faster than float32 here"), (2.6, "float32 is faster here: 2.6 x")])
def test_the_verdict_is_plain(ratio: float, verdict: str) -> None:
    assert str(Latency(1.0, 1.0, ratio)) == verdict
