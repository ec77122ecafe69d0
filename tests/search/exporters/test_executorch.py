"""The ExecuTorch exporter: checks, kernels, types, the card; and a machine without executorch."""

import dataclasses
import sys
from pathlib import Path

import pytest

from quant_core.export.executorch import program
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import one_example
from search.exporters.card import _runtimes
from search.exporters.card_files import loading_section
from search.exporters.executorch import FILE, export
from search.exporters.verify import Compared
from tests.search.exporters.test_onnx_qdq import bundle

INT8 = "weight=int8:channel,activation=int8:tensor:ema"


def test_a_policy_is_replayed_its_kernels_counted_and_its_types_read_back(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    made = bundle(INT8)
    exported = export(made, tmp_path)
    assert exported.files == (FILE,)
    assert exported.checks["integer_linears"] == "2 of 2"
    assert exported.checks["stored_types"] == "qcint8 x 2"
    assert float(exported.checks["top1_agreement"]) == 1.0
    assert float(exported.checks["payload_bytes"]) == float(exported.checks["modelled_weight_bytes"])
    assert exported.checks["file_bytes"] == (tmp_path / FILE).stat().st_size
    written = dataclasses.replace(made, written={"executorch": exported})
    section = "".join(_runtimes(written))
    assert f"`model.pte` in {exported.checks['runtime']}: " in section
    assert str(exported.checks["verdict"]) in section
    assert 'Runtime.get().load_program("model.pte").load_method("forward")' in loading_section(written)


def test_where_static_int8_changes_outputs_ranges_are_taken_as_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("executorch")
    answers = [Compared(0.5, 0.5, 9.0, 9.0, 10), Compared(1.0, 1.0, 0.0, 9.0, 10)]
    monkeypatch.setattr(one_example, "compare", lambda bundle, run: answers.pop(0))
    exported = export(dataclasses.replace(bundle(INT8), measure=False), tmp_path)
    assert "the ranges of inputs are taken as the program runs" in exported.notes[0]
    assert "top-1 agrees on 50.00% of 10" in exported.notes[0]
    assert exported.checks["top1_agreement"] == 1.0


def test_a_file_with_other_outputs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("executorch")
    monkeypatch.setattr(one_example, "compare", lambda bundle, run: Compared(0.5, 0.5, 9.0, 9.0, 10))
    with pytest.raises(BitfrontError, match=r"ExecuTorch does not give the outputs that the search measured"):
        export(dataclasses.replace(bundle("weight=int4:channel"), measure=False), tmp_path)


def test_without_executorch_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("executorch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(InputError, match=r"^the runtime executorch needs executorch \(.*\): pip install 'bitfront\[executorch\]'\.$"):
        export(bundle(INT8), tmp_path)
    with pytest.raises(InputError, match=r"^the runtime executorch needs executorch"):
        program.float_program(bundle(INT8).task.model, bundle(INT8).network.example)
    assert not list(tmp_path.iterdir())
