"""The table of quantization-aware training: cells are kept and not measured twice; verdicts follow from the figures."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import qat_table
from benchmarks.qat_table_report import Cell, markdown, verdicts, write


def cells(row: str, column: str, *figures: float) -> list[Cell]:
    return [Cell("task net", "", seed, row, column, figure, 1.0) for seed, figure in enumerate(figures)]


def test_a_run_measures_what_its_store_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, store = tmp_path / "page.md", tmp_path / "new" / "cells.jsonl"
    page.write_text("before\n<!-- table digits -->\nold\n<!-- end digits -->\nafter\n")
    command = ["--seeds", "1", "--epochs", "1", "--rows", "ternary, A8 (twn)", "--store", str(store), "--write", str(page)]
    qat_table.main([*command, "--methods", "none"])
    assert [json.loads(line)["column"] for line in store.read_text().splitlines()] == ["float", "PTQ"]
    with store.open("a") as file:
        file.write('{"label": "dig')  # a killed run
    capsys.readouterr()
    qat_table.main([*command, "--methods", "ste"])
    printed = capsys.readouterr().out
    assert "cut short" in printed
    assert printed.count("s of CPU time") == 1
    trained = qat_table.read(store)[-1]
    assert (trained.row, trained.column, trained.seed) == ("ternary, A8 (twn)", "ste", 0)
    assert trained.figure > 80
    text = page.read_text()
    assert text.startswith("before\n<!-- table digits -->\nFloat: ")
    assert f"| {trained.figure:.1f} |" in text
    qat_table.main([*command, "--methods", "ste", "--lr", "0.01", "--tables"])
    assert "Seeds of the training: none" in page.read_text()  # other settings are another table
    page.write_text("<!-- table digits longer -->\n<!-- end digits longer -->\n")
    qat_table.main([*command, "--methods", "ste", "--tables", "--suffix", "longer"])
    assert f"| {trained.figure:.1f} |" in page.read_text()


def test_a_table_shows_mean_and_spread() -> None:
    lines = markdown([*cells("float", "float", 91.0), *cells("W4A4", "PTQ", 88.0), *cells("W4A4", "lsq", 89.0, 90.0, 91.0)]).splitlines()
    assert lines[0] == "Float: 91.0. Seeds of the training: 0, 1, 2."
    assert lines[2:] == ["| | PTQ | lsq |", "|---|---|---|", "| W4A4 | 88.0 | 90.0 ± 1.0 |"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (cells("W4A4", "lsq", 90.5, 90.1), ["W4A4: lsq is 0.7 points below float (limit 1): kept."]),
        (cells("W4A4", "lsq", 89.9), ["W4A4: lsq is 1.1 points below float (limit 1): missed."]),
        (cells("W4A4", "ste", 80.0), []),
        (cells("ternary, A8 (ttq)", "ttq", 87.5), ["ternary, A8 (ttq): ttq is 3.5 points below float (limit 3): missed."]),
        (
            [*cells("binary, A8", "ste", 85.0), *cells("binary, A8", "binary", 87.0)],
            ["binary, A8: binary is 4.0 points below float (limit 5): kept."],
        ),
        (
            [*cells("W3A3", "PTQ", 80.0), *cells("W3A3", "AdaRound", 85.0), *cells("W3A3", "mad", 86.0)],
            ["W3A3: mad 86.0, AdaRound 85.0, PTQ 80.0: as expected."],
        ),
        (
            [*cells("W2A4", "PTQ", 80.0), *cells("W2A4", "AdaRound", 87.0), *cells("W2A4", "lsq", 86.0)],
            ["W2A4: lsq 86.0, AdaRound 87.0, PTQ 80.0: not in the expected order."],
        ),
        ([*cells("W2A4", "PTQ", 80.0), *cells("W2A4", "lsq", 86.0)], []),
    ],
)
def test_verdicts_follow_from_the_figures(given: Sequence[Cell], said: list[str]) -> None:
    assert verdicts([*cells("float", "float", 91.0), *given]) == said


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="has no markers <!-- table digits -->"):
        write(page, "digits", "table")
