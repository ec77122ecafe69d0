"""The OpenVINO exporter: checks, kernels, types, the card; and a machine without openvino."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.export.openvino import inspection
from quant_core.export.replay import replayed
from quant_core.export.scripts import RUNTIMES
from quant_core.network.forward import forward
from quant_core.util.errors import BitfrontError, InputError
from search.exporters.card import _runtimes
from search.exporters.card_files import loading_section
from search.exporters.openvino import FILE, WEIGHTS, export
from tests.search.exporters.language import bundle as sequences
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
    assert "2 of 2 linear layers are computed by integers; options: INFERENCE_PRECISION_HINT=f32" in section
    assert str(exported.checks["verdict"]) in section


def test_packed_weights_are_allowed_the_rounding_of_their_inputs(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    exported = export(dataclasses.replace(bundle("weight=int2:channel"), measure=False), tmp_path)
    assert exported.checks["stored_types"] == "u2 x 2"
    assert exported.checks["integer_linears"] == "2 of 2"


class Unread(nn.Module):
    """Two layers, and one whose output nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unread, self.last = nn.Linear(6, 32), nn.Linear(32, 8), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        self.unread(x)
        return self.last(x)


def test_a_layer_whose_output_nothing_reads_is_no_fault(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    exported = export(bundle("weight=int7:channel,activation=int8:tensor", Unread), tmp_path)
    assert exported.checks["stored_types"] == "i8 x 2"
    assert "overflow_without_vnni" not in exported.checks
    assert exported.notes[1:] == ("nothing reads the output of these layers, so they are not in the file: unread",)


def test_sequences_may_have_any_length(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = dataclasses.replace(sequences("int8:channel"), measure=False)
    assert export(made, tmp_path).notes == ()
    with replayed(tmp_path / FILE, ["input"], runtime="openvino") as replay:
        for length in (1, 5, 31):
            tokens = torch.randint(0, 96, (3, length), generator=torch.Generator().manual_seed(length))
            wanted = forward(made.network.simulation, tokens)
            assert float((replay(tokens) - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())


def test_a_file_with_other_outputs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("quant_core.export.openvino.storage._offset", lambda layer: 1)  # codes that are off by one
    with pytest.raises(BitfrontError, match=r"OpenVINO does not give the outputs that the search measured"):
        export(dataclasses.replace(bundle("weight=int4:channel"), measure=False), tmp_path)


def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let integer kernels give other outputs, as they do where sums of two products leave 16 bits."""
    script = RUNTIMES["openvino"].replace("self.request = ", "self.sign = -1 if fuse else 1\n        self.request = ")
    monkeypatch.setitem(RUNTIMES, "openvino", script.replace(".get_output_tensor(0).data", ".get_output_tensor(0).data * self.sign"))


def test_where_int8_kernels_overflow_float32_computes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    overflowing(monkeypatch)
    counted, compiled = list[bool](), inspection.compiled
    monkeypatch.setattr(inspection, "compiled", lambda *a, integers, **b: counted.append(integers) or compiled(*a, integers=integers, **b))
    made = bundle(INT8)
    exported = export(made, tmp_path)
    assert exported.notes[0].startswith("set LP_TRANSFORMS_MODE = NO on this processor: without VNNI its int8 kernels add two products")
    assert "2 layers overflow (top-1 agrees on 0.00% of " in exported.notes[0]
    assert exported.checks["top1_agreement"] == 1.0
    assert counted == [False]
    assert exported.checks["overflow_without_vnni"] == "2 of 2"
    written = dataclasses.replace(made, written={"openvino": exported})
    options = '{"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}'
    assert f'"CPU", {options})' in loading_section(written)
    assert "may overflow" not in "".join(_runtimes(written))
    exported.checks["runtime_options"] = "INFERENCE_PRECISION_HINT=f32"
    assert "2 of 2 int8 layers may overflow on processors without VNNI: set LP_TRANSFORMS_MODE=NO there" in "".join(_runtimes(written))


def test_other_outputs_of_codes_that_cannot_overflow_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    overflowing(monkeypatch)
    with pytest.raises(BitfrontError, match=r"OpenVINO does not give the outputs that the search measured"):
        export(dataclasses.replace(bundle("weight=int4:channel,activation=int8:tensor:ema"), measure=False), tmp_path)


@pytest.mark.parametrize(
    ("text", "may"),
    [(INT8, True), ("weight=int7:channel,activation=int8:tensor", False), ("weight=int8:channel,activation=int6:tensor", False)],
)
def test_two_products_of_eight_bits_may_leave_sixteen(text: str, may: bool) -> None:
    assert [layer.overflows for layer in bundle(text).network.stored] == [may, may]


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
