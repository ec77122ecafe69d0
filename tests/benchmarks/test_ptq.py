"""Post-training quantization, method by method: cells are kept and not measured twice; the page's tables follow from them."""

import json
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ptq
from benchmarks.ptq_report import SHOWN, START, Cell, read, write
from benchmarks.stores import END, append


def cell(column: str, seed: int, loss: float) -> Cell:
    return Cell("efficientnet_lite0", "int4:channel:mse", "int8:tensor:mse", column, seed, 4.15, {"accuracy": 0.8, "loss": loss}, 0.5)


def test_cells_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, page = tmp_path / "new" / "cells.jsonl", tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    asked = []

    def searched(budget: str, column: str, seed: int) -> Cell:
        asked.append((budget, column, seed))
        return Cell("digits", budget, ptq.A8, column, seed, 3.0, {"loss": 0.1 + seed / 100, "drop": -0.5}, 2.0)

    monkeypatch.setattr(ptq, "searched", searched)
    command = ["--networks", "digits", "--store", str(store), "--page", str(page), "--columns"]
    ptq.main([*command, "gptq"])
    assert len(asked) == 10, "two budgets of five networks"
    with store.open("a") as file:
        file.write('{"network": "dig')  # a killed run
    ptq.main([*command, "nearest;gptq, weighted"])
    assert len(asked) == 30
    ptq.main([*command, "gptq;nearest"])
    ptq.main(["--store", str(store), "--page", str(page), "--tables"])
    assert len(asked) == 30
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `3.0 bits` | `int8:tensor:mse` | gptq, weighted | 3.00 | 0.120 +- 0.016 | -0.50 +- 0.00 | 2.00 | 5 |" in text
    assert text.index("| nearest |") < text.index("| gptq |") < text.index("| gptq, weighted |")


def test_methods_of_others_have_a_place_in_the_tables(tmp_path: Path) -> None:
    store, page = tmp_path / "cells.jsonl", tmp_path / "page.md"
    page.write_text(f"{START}\n{END}\n")
    for made in (cell("rotated gptq", 0, 0.7), cell("nearest", 0, 1.2), cell("nearest", 1, 1.4)):
        append(store, made)
    assert [json.loads(line)["column"] for line in store.read_text().splitlines()] == ["rotated gptq", "nearest", "nearest"]
    write(page, read(store))
    assert page.read_text().count("\n### ") == 1, "networks that were not measured have no table"
    lines = [line for line in page.read_text().splitlines() if "int4:channel" in line]
    assert "| nearest | 4.15 | 80.0 +- 0.0 | 1.300 +- 0.141 | 0.50 | 2 |" in lines[0]
    assert "| rotated gptq | 4.15 | 80.0 | 0.700 | 0.50 | 1 |" in lines[1]


def test_every_network_has_a_heading_and_a_share() -> None:
    assert list(ptq.ROWS) == list(SHOWN)
    assert {*ptq.ROWS} - {*ptq.SHARE} == {"digits"}
    assert {*ptq.OPTIONS} <= {*ptq.ROWS}


X = torch.arange(60.0).reshape(30, 2)
WIDER = torch.nn.functional.pad(X[20:], (0, 3))


@pytest.mark.parametrize(
    "batches",
    [
        [({"ids": X[:20]}, torch.arange(20)), ({"ids": X[20:]}, torch.arange(20, 30))],
        [UserDict({"ids": X[:20], "labels": torch.arange(20)}), UserDict({"ids": WIDER, "labels": torch.arange(20, 30)})],
    ],
    ids=["pairs", "mappings that are no dicts, of several widths"],
)
def test_a_seed_chooses_the_calibration_examples(batches: list[Any]) -> None:
    metrics = "" if isinstance(batches[0], tuple) else "mae"
    task = ptq.Task(torch.nn.Linear(2, 2), batches, batches, batches, batches, metrics=metrics)
    picks = [torch.cat([targets for _, targets in ptq.chosen(task, 0.5, seed).calib]) for seed in (0, 1, 1, 2)]
    assert picks[0].tolist() == list(range(15))
    assert torch.equal(picks[1], picks[2])
    assert len(set(picks[1].tolist()) & set(picks[3].tolist())) < 15
    for inputs, targets in ptq.chosen(task, 0.5, 1).calib:
        assert torch.equal(inputs["ids"][:, 0], 2.0 * targets)
    assert [len(targets) for _, targets in ptq.chosen(task, 0.8, 0).calib] == [20, 4]


@pytest.mark.filterwarnings("ignore::quant_core.transforms.apply.TransformWarning")  # the network has no residual stream
def test_a_transform_is_a_column_of_rows_with_inputs_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, _, cells), *others = ptq.missing(["stories260k"], ["gptq", "gptq, rotated"], 1, set())
    assert not others
    assert [activation for _, activation, column in cells if column == "gptq, rotated"] == [ptq.ROWWISE]
    torch.manual_seed(0)
    x, model = torch.randn(32, 64) * torch.logspace(-1, 1, 64), torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 4))
    monkeypatch.setitem(ptq.SHARE, "own", 1.0)
    task = ptq.Task(model.eval(), *[[(x, model(x).argmax(dim=1))]] * 4)
    bench = ptq.Bench("own", task, 0)
    losses = [bench.measure("int4:channel:mse", ptq.ROWWISE, column).figures["loss"] for column in ("nearest", "nearest, rotated")]
    assert losses[1] - bench.reference().figures["loss"] < 0.5 * (losses[0] - bench.reference().figures["loss"])
