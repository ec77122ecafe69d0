"""The probe of a runtime's kernels."""

from dataclasses import replace

import pytest

from hw_models.runtimes import RuntimeFile
from search.exporters import probing
from search.exporters.runtimes import runtime


def kernels_of(name: str, monkeypatch: pytest.MonkeyPatch) -> RuntimeFile:
    monkeypatch.setattr(probing, "BITS", (4,))
    *steps, (done, total, file) = probing.probe(runtime(name))
    assert [step[2] for step in steps] == [None] * total
    assert done == total == 4
    assert file is not None
    return file


def test_onnxruntime_multiplies_packed_weights_of_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {(row.layer, row.granularity, row.activation): (row.stored, row.runs) for row in kernels_of("onnxruntime", monkeypatch).kernels}
    assert rows["linear", "group32", "float"] == ({"int4": "4 bits"}, {"int4": "4-bit weights"})
    assert rows["conv", "channel", "int8"] == ({"int4": "INT4"}, {"int4": "int8"})


def test_openvino_computes_four_bits_by_int8_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    rows = {(row.layer, row.granularity, row.activation): (row.stored, row.runs) for row in kernels_of("openvino", monkeypatch).kernels}
    for layer in ("conv", "depthwise", "linear"):
        assert rows[layer, "channel", "int8"] == ({"int4": "i4"}, {"int4": "int8"})
    assert rows["conv_transpose", "channel", "int8"][1]["int4"] in ("int8", "float32"), "by integers where there is AVX-512"
    assert rows["linear", "group32", "float"] == ({"int4": "i4"}, {"int4": "4-bit weights"})


def test_executorch_has_no_kernels_for_depthwise_convolutions_of_float_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("executorch")
    monkeypatch.setattr(probing, "CASES", (("channel", "float"), ("channel", "int8")))
    monkeypatch.setattr(probing, "BITS", (4,))
    file = [step[2] for step in probing.probe(runtime("executorch"))][-1]
    assert file is not None
    rows = {(row.layer, row.activation): (row.stored["int4"], row.runs["int4"]) for row in file.kernels}
    assert rows["linear", "float"] == ("qcint4", "4-bit weights")
    assert rows["conv", "int8"] == rows["depthwise", "int8"] == ("qcint8", "int8")
    assert rows["conv", "float"] == ("qcint8", "8-bit weights")
    assert rows["depthwise", "float"][1].startswith("refused: XNNPACK has a kernel")


def test_litert_multiplies_packed_weights_and_stores_convolutions_in_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(probing, "CASES", (("channel", "float"), ("channel", "int8")))
    monkeypatch.setattr(probing, "BITS", (2,))
    file = [step[2] for step in probing.probe(runtime("litert"))][-1]
    assert file is not None
    rows = {(row.layer, row.activation): (row.stored["int2"], row.runs["int2"]) for row in file.kernels}
    assert rows["linear", "float"] == ("int2", "2-bit weights")
    assert rows["conv", "int8"] == rows["depthwise", "int8"] == ("int8", "int8")
    assert rows["conv", "float"] == rows["conv_transpose", "int8"] == ("int8", "8-bit weights")
    assert rows["depthwise", "float"] == ("int8", "float32")


def test_where_a_runtime_refuses_one_layer_the_others_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "CASES", (("channel", "int8"),))
    monkeypatch.setattr(probing, "BITS", (4,))
    plain = runtime("onnxruntime")
    *_, (_, _, file) = probing.probe(replace(plain, refusal=lambda layer, _policy: "none here" if layer.kind == "depthwise" else ""))
    assert file is not None
    rows = {row.layer: (row.stored["int4"], row.runs["int4"]) for row in file.kernels}
    assert rows["depthwise"] == ("", "refused: none here")
    assert rows["conv"] == rows["linear"] == ("INT4", "int8")
    *_, (_, _, file) = probing.probe(replace(plain, refusal=lambda _layer, _policy: "x" * 200))
    assert file is not None
    assert {row.runs["int4"] for row in file.kernels} == {f"refused: {'x' * 200}"}, "a refusal is kept whole"


def test_outputs_that_are_not_the_simulations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "TOLERANCE", -1.0)
    assert {kernel for row in kernels_of("onnxruntime", monkeypatch).kernels for kernel in row.runs.values()} == {
        "refused: other outputs than the simulation's"
    }
