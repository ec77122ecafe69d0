"""The OpenVINO exporter: checks, kernels, types, the card; and a machine without openvino."""

import dataclasses
import sys
from pathlib import Path

import pytest

from quant_core.export.openvino import inspection
from quant_core.util.errors import BitfrontError, InputError
from search.exporters.card import _runtimes
from search.exporters.openvino import FILE, WEIGHTS, export
from tests.search.exporters.test_onnx_qdq import bundle

INT8 = "weight=int8:channel,activation=int8:tensor:ema"


def test_a_policy_is_replayed_its_kernels_counted_and_its_types_read_back(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = bundle(INT8)
    exported = export(made, tmp_path)
    assert exported.files == (FILE, WEIGHTS)
    assert exported.checks["integer_linears"] == "2 of 2"
    assert exported.checks["stored_types"] == "i8 x 2"
    assert float(exported.checks["top1_agreement"]) == 1.0
    assert float(exported.checks["payload_bytes"]) == float(exported.checks["modelled_weight_bytes"])
    assert exported.checks["file_bytes"] == sum((tmp_path / file).stat().st_size for file in exported.files)
    section = "".join(_runtimes(dataclasses.replace(made, written={"openvino": exported})))
    assert f"`model.xml, model.bin` in {exported.checks['runtime']}: " in section
    assert "2 of 2 linear layers are computed by integers; options: INFERENCE_PRECISION_HINT=f32; top-1 agrees" in section
    assert str(exported.checks["verdict"]) in section


def test_packed_weights_are_allowed_the_rounding_of_their_inputs(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    exported = export(dataclasses.replace(bundle("weight=int2:channel"), measure=False), tmp_path)
    assert exported.checks["stored_types"] == "u2 x 2"
    assert exported.checks["integer_linears"] == "2 of 2"


def test_a_file_with_other_outputs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("quant_core.export.openvino.storage._offset", lambda layer: 1)  # codes that are off by one
    with pytest.raises(BitfrontError, match=r"OpenVINO does not give the outputs that the search measured"):
        export(dataclasses.replace(bundle("weight=int4:channel"), measure=False), tmp_path)


def test_a_file_with_other_types_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(inspection.storage, "code_type", lambda layer: "i8")
    made = export(dataclasses.replace(bundle("weight=int4:channel"), measure=False), tmp_path)
    monkeypatch.undo()
    assert made.checks["stored_types"] == "i8 x 2"
    with pytest.raises(BitfrontError, match="int4:channel is stored as i8, i4 is due"):
        inspection.stored_types(tmp_path / FILE, bundle("weight=int4:channel").network.stored)


def test_without_openvino_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"^the runtime openvino needs openvino \(.*\): pip install 'bitfront\[openvino\]'\.$"):
        export(bundle(INT8), tmp_path)
    assert not list(tmp_path.iterdir())
