"""The LiteRT exporter: checks, kernels, types, the card; and a machine without ai-edge-litert."""

import dataclasses
import sys
from pathlib import Path

import pytest

from quant_core.export.litert import program
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import one_example
from search.exporters.card import _runtimes
from search.exporters.card_files import loading_section
from search.exporters.litert import FILE, export
from search.exporters.runtimes import runtime
from search.exporters.verify import Compared
from tests.search.exporters.test_onnx_qdq import bundle

INT8 = "weight=int8:channel,activation=int8:tensor:ema"


def test_a_policy_is_replayed_its_kernels_counted_and_its_types_read_back(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    made = bundle(INT8)
    exported = export(made, tmp_path)
    assert exported.files == (FILE,)
    assert exported.checks["integer_linears"] == "2 of 2"
    assert exported.checks["stored_types"] == "int8 x 2"
    assert float(exported.checks["top1_agreement"]) == 1.0
    assert float(exported.checks["payload_bytes"]) == float(exported.checks["modelled_weight_bytes"])
    assert exported.checks["file_bytes"] == (tmp_path / FILE).stat().st_size
    written = dataclasses.replace(made, written={"litert": exported})
    section = "".join(_runtimes(written))
    assert f"`model.tflite` in {exported.checks['runtime']}: " in section
    assert str(exported.checks["verdict"]) in section


def test_the_lines_of_the_card_load_and_run_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    made = dataclasses.replace(bundle(INT8), measure=False)
    exported = export(made, tmp_path)
    text = loading_section(dataclasses.replace(made, written={"litert": exported}))
    lines = text.partition("```python\n")[2].partition("\n```")[0]
    assert len(lines.splitlines()) <= 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"input": made.network.example[:1].numpy()}
    exec(lines, names)
    wanted = made.network.simulation(made.network.example[:1]).detach().numpy()
    assert abs(names["outputs"] - wanted).max() <= 0.02 * abs(wanted).max()


def test_a_file_with_other_outputs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(one_example, "compare", lambda bundle, run: Compared(0.5, 0.5, 9.0, 9.0, 10))
    with pytest.raises(BitfrontError, match=r"LiteRT does not give the outputs that the search measured"):
        export(dataclasses.replace(bundle("weight=int4:channel"), measure=False), tmp_path)


def test_without_litert_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ai_edge_litert.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    message = r"^the runtime litert needs ai-edge-litert \(.*\): pip install 'bitfront\[litert\]'\.$"
    with pytest.raises(InputError, match=message):
        export(bundle(INT8), tmp_path)
    with pytest.raises(InputError, match=message):
        program.float_program(bundle(INT8).task.model, bundle(INT8).network.example)
    with pytest.raises(InputError, match=message):
        runtime("litert")
    assert not list(tmp_path.iterdir())
