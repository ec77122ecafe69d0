"""Tables at the widths of real terminals: no word is cut, what does not fit is named."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from quant_core.spec.policy import Policy
from search.cli.front_table import print_front
from search.cli.table import Column, fitted, print_table
from search.records.front import front_members, front_rows
from search.records.record import SweepRecord

MakeSweep = Callable[..., SweepRecord]
LAYERS = (
    "model.encoder.blocks.10.attention.self.query_projection",
    "model.encoder.blocks.10.attention.self.key_projection",
    "features.stage3.blocks.2.conv_depthwise.0",
    "classifier",
)
WIDTHS = (60, 80, 120, 200)


def columns() -> list[Column]:
    """Return the columns of a wide table: names, specs, numbers, sentences."""
    count = len(LAYERS)
    return [
        Column("layer", LAYERS, left=True, name=True),
        Column("weight", ("int4:channel:mse:gptq",) * count, 1, left=True),
        Column("activation", ("int8:tensor:ema",) * count, 2, left=True),
        *(Column(f"figure number {i}\nKiB", tuple(f"{10.0**k:.3f}" for k in range(count)), 3 + i) for i in range(8)),
        Column("reason", ("the device has no memory left for this",) * count, 20, left=True, text=True),
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_cut(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table("a table", columns())
    out = capsys.readouterr().out
    lines = out.partition("not shown in")[0].splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in out
    kept, hidden = fitted(columns(), width)
    for column in kept:
        for cell in column.cells if not column.text else " ".join(column.cells).split():
            assert any(cell in line for line in lines), cell
    assert ("not shown in" in out) == bool(hidden)
    for column in hidden:
        assert " ".join(column.title.split()) in out.replace("\n", " ")


def test_columns_go_by_rank_and_names_keep_their_ends() -> None:
    kept, hidden = fitted(columns(), 60)
    assert [column.rank for column in kept] == sorted(column.rank for column in kept)
    assert min(column.rank for column in hidden) > max(column.rank for column in kept)
    (layer, *_) = kept
    for text, name in zip(layer.cells, LAYERS, strict=True):
        assert name.startswith(text[:7])
        assert name.endswith(text[-8:])
    assert len(set(layer.cells)) == len(LAYERS)
    whole, none = fitted(columns(), 1000)
    assert none == []
    assert whole[0].cells == LAYERS


def test_numbers_are_set_to_the_right_under_one_unit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table("", [Column("size\nKiB", ("1.000", "100.000"), 1)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [line.strip() for line in lines] == ["size", "KiB", "─" * 7, "1.000", "100.000"]
    assert len({len(line) for line in lines if "─" not in line}) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_front_fits_every_terminal(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    sweep = make_sweep("a", trials=40, objectives=("error", "weight_bytes", "latency_s"))
    trials = tuple(replace(trial, policy=Policy(dict(trial.policy))) for trial in sweep.trials)
    counts = {"examples_valid": 500.0, "examples_test": 500.0}
    sweep = replace(sweep, trials=trials, baseline={**sweep.baseline, **counts})
    monkeypatch.setenv("COLUMNS", str(width))
    rows = front_rows(sweep, front_members(sweep))
    print_front(sweep, rows)
    out = capsys.readouterr().out
    table = out.partition("suggested: ")[0].partition("not shown in")[0]
    assert max(len(line) for line in table.splitlines()) <= width
    assert all(str(row["id"]) in table for row in rows)
    sizes = [float(size) for size in re.findall(r"^ (?!float)\w{10} .*? (\d\.\d{3})", table, re.MULTILINE)]
    assert sizes
    assert re.search(r"^ float .* 98\.00", table, re.MULTILINE)
    for word in ("knee", "suggested", "best uniform"):
        assert word in table
    assert "±" in table
    assert f"--pick {re.search(r'^ (.{10}).*suggested', table, re.MULTILINE)[1]} --out FOLDER" in out  # type: ignore[index]
