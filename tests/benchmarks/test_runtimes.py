"""The table of runtimes: cells are kept and not measured twice, and what is refused stands in a sentence."""

from pathlib import Path

import pytest
import torch

from benchmarks import runtimes
from benchmarks.runtimes_report import FLOAT_POLICY, START, Cell, Time, read, write
from benchmarks.stores import END, append
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from quant_core.spec.quant_spec import FLOAT
from quant_core.util.errors import InputError

INT8 = "weight=int8:channel,activation=int8:tensor"


def test_cells_are_measured_once_and_a_failure_costs_no_other_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, page, asked = tmp_path / "new" / "cells.jsonl", tmp_path / "page.md", []
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")

    class Bench:
        def __init__(self, name: str, _data: str) -> None:
            self.name = name

        def cell(self, text: str, form: str, timed: bool) -> Cell:
            asked.append((self.name, text, form))
            if form == "litert" and len(asked) < 5:
                raise RuntimeError("a crash")
            refused, here = "no" if form == "gguf" else "", runtimes.described()
            times = {"1": Time(0.5, 1e-3, 2e-3)} if timed else {}
            return Cell(self.name, text, form, refused=refused, metric="accuracy", value=0.5, agreement=1.0, times=times, processor=here)

    monkeypatch.setattr(runtimes, "Bench", Bench)
    monkeypatch.setattr(runtimes, "absent", lambda form: "not installed" if form == "executorch" else "")
    command = ["--store", str(store), "--page", str(page), "--network", "digits", "--policy", FLOAT_POLICY, "--policy", INT8]
    forms = [argument for form in ("onnx", "litert", "executorch", "gguf") for argument in ("--format", form)]
    assert runtimes.main([*command, *forms]) == 1
    assert asked == [("digits", FLOAT_POLICY, "onnx"), *(("digits", INT8, form) for form in ("onnx", "litert", "gguf"))]
    with store.open("a") as file:
        file.write('{"network": "dig')  # a killed run
    assert runtimes.main([*command, *forms]) == 0
    assert asked[4:] == [("digits", INT8, "litert")]
    assert runtimes.main(["--store", str(store), "--page", str(page), "--tables"]) == 0
    assert len(asked) == 5
    assert page.read_text().startswith("before\n")
    monkeypatch.setattr(runtimes, "described", lambda: "another processor")
    assert runtimes.main([*command, *forms, "--no-times"]) == 0
    assert asked[5:] == asked[:4]
    assert page.read_text().count("### digits") == 2
    assert "\nanother processor; no times were taken.\n" in page.read_text()
    assert runtimes.main([*command, *forms, "--no-times"]) == 0
    assert len(asked) == 9
    assert runtimes.main([*command, *forms]) == 0
    assert asked[9:] == asked[:3]  # a refusal is not asked again
    assert page.read_text().count("### digits") == 2
    assert "\nTimes: another processor.\n" in page.read_text()
    assert "| int8:channel, int8:tensor | litert | 50.00% | 100.00% |" in page.read_text()


def test_refusals_of_one_reason_are_one_line_and_long_ones_are_cut_at_a_word(tmp_path: Path) -> None:
    store, page = tmp_path / "cells.jsonl", tmp_path / "page.md"
    page.write_text(f"{START}\n{END}\n")
    why = "layer 'a.{}': holds weights alone (and {} more layers)."
    append(store, Cell("minilm", INT8, "gguf", refused=why.format(1, 8)))
    append(store, Cell("minilm", "weight=int4:channel,activation=int8:tensor", "gguf", refused=why.format(2, 7)))
    append(store, Cell("stories260k", INT8, "gguf", refused=why.format(3, 1), processor="CPU (AVX2)"))
    append(store, Cell("minilm", INT8, "litert", refused="word " * 100))
    times = {"1": Time(0.251, 2e-3, 8e-3)}
    held = Cell("minilm", INT8, "onnx", "", "spearman", 0.91234, 0.995, 1_000, 900.0, 800.0, "36 of 36", times, processor="CPU (AVX2)")
    append(store, held)
    write(page, read(store))
    text = page.read_text()
    assert "| int8:channel, int8:tensor | onnx | 0.9123 | 99.50% | 1,000 | 1.125 | 36 of 36 | 0.25 (2 ms) |  |" in text
    shown = "`int8:channel, int8:tensor` (minilm, stories260k); `int4:channel, int8:tensor` (minilm)"
    assert f"- gguf, {shown}: holds weights alone." in text
    assert "word ...\n" in text
    assert "\nTimes: CPU (AVX2).\n" in text
    assert read(store)[-1] == held
    assert "digits" not in text
    assert "### stories260K" not in text  # a table without a line is none


def test_a_format_whose_runtime_is_missing_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise InputError("the runtime needs a package")

    monkeypatch.setattr(runtimes, "runtime", missing)
    monkeypatch.setattr(runtimes, "find_spec", lambda _name: None)
    assert runtimes.absent("openvino") == "the runtime needs a package"
    assert runtimes.absent("gguf") == "gguf needs gguf, which is not installed."


def test_rows_that_a_group_does_not_divide_stay_in_float() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 40), torch.nn.ReLU(), torch.nn.Linear(40, 8)).eval()
    choice = parse_layer_policy("weight=int4:group32")
    chosen = [runtimes._fitting(choice, layer).weight for layer in trace(model, torch.zeros(2, 64))]
    assert chosen == [choice.weight, FLOAT]
