"""A sweep of a task with metrics: recorded, read back, shown, limited, exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitfront
from search.records.front import front_members, front_rows
from search.report.page import sweep_page
from search.report.publish import note

SPACE: dict[str, Any] = {
    "weight": ["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"],
    "activation": ["int8:tensor:mse"],
    "device": "generic-cpu",
    "trials": 6,
    "log": "none",
}


def make() -> bitfront.Task:
    """Return a regression whose batches are mappings, judged by ranks first."""
    torch.manual_seed(0)
    x = torch.randn(160, 5)
    y = (x * torch.tensor([3.0, -1.0, 2.0, 0.5, 0.0])).sum(dim=1) + torch.relu(x[:, 0])
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        (model(x)[:, 0] - y).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    splits = ([{"input": x[a:b], "labels": y[a:b]}] for a, b in ((0, 60), (0, 60), (60, 110), (110, 160)))
    return bitfront.Task(model.eval(), *splits, metrics=["spearman", "mae", bitfront.metric(bias, higher=False, unit="K")])


def bias(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return how far off the mean is."""
    return float((outputs[:, 0].mean() - targets.mean()).abs())


@pytest.fixture(scope="module")
def sweep() -> bitfront.Sweep:
    return bitfront.sweep(make, record=None, budget={"spearman": "float - 0.02", "mae": "<= 3"}, **SPACE)


def test_every_metric_is_recorded_and_the_first_is_minimized(sweep: bitfront.Sweep) -> None:
    record = sweep.record
    assert [info.name for info in record.metrics] == ["spearman", "mae", "bias"]
    for trial in record.trials:
        assert trial.result.metrics["error"] == 1 - trial.result.metrics["spearman"]
        assert {"mae", "bias", "loss"} <= set(trial.result.metrics)
    assert {"spearman_valid", "spearman_test", "mae_valid", "bias_test"} <= set(record.baseline)
    for trial in front_members(record):
        assert set(trial.test) == {"spearman", "mae", "bias", "error", "loss"}


def test_the_front_keeps_the_limits_on_metrics(sweep: bitfront.Sweep) -> None:
    limit = sweep.record.baseline["spearman_valid"] - 0.02
    assert sweep.record.quality_limits == {"spearman": pytest.approx(limit), "mae": 3.0}
    members = front_members(sweep.record)
    assert members
    assert all(trial.result.metrics["spearman"] >= limit and trial.result.metrics["mae"] <= 3 for trial in members)
    free = bitfront.sweep(make, record=None, **SPACE)
    outside = [trial for trial in front_members(free.record) if trial.result.metrics["spearman"] < limit]
    assert outside  # without the limit the cheapest policies are worse


def test_metrics_are_shown_with_unit_and_direction(sweep: bitfront.Sweep) -> None:
    columns = list(sweep.front().columns)
    assert {"spearman valid ↑", "spearman test ↑", "mae valid ↓", "bias test ↓ [K]"} <= set(columns)
    assert not [name for name in columns if name.startswith("accuracy")]
    page, text = sweep_page(sweep.record), note(sweep.record)
    for shown in ("spearman valid ↑", "bias valid ↓ [K]", "mae float test ↓"):
        assert shown in page
    assert "error = 1 - spearman" in page
    assert "Limits: spearman >= 0.9752, mae <= 3." in text
    assert "| spearman valid ↑ | spearman test ↑ | mae valid ↓ |" in text
    row = front_rows(sweep.record, front_members(sweep.record))[0]
    assert row["accuracy_valid"] is None
    assert isinstance(row["bias_test"], float)


def test_the_best_policy_is_within_points_of_the_metric(sweep: bitfront.Sweep) -> None:
    best = sweep.best(max_drop=0.02)
    assert best["spearman_valid"] >= best["spearman_float_valid"] - 0.02
    assert best.note == "smallest weight within 0.02 points of float on validation, by the estimate; how sure that is was not measured"
    assert "spearman float valid" in repr(best)


def test_the_search_may_be_for_another_of_the_metrics() -> None:
    options = SPACE | {"options": {"evaluate": {"metric": "mae"}}}
    sweep = bitfront.sweep(make, record=None, **options)
    trial = sweep.record.trials[0]
    assert trial.result.metrics["error"] == trial.result.metrics["mae"]
    assert sweep.record.reference["error"] == 4 * sweep.record.baseline["mae_valid"]


def test_a_recorded_sweep_reads_back_and_exports(store_uri: str, tmp_path: Path, bitfront_cli: Callable[..., Any]) -> None:
    recorded = bitfront.sweep(make, record=store_uri, **SPACE)
    again = bitfront.load(recorded.name, uri=store_uri, task=make)
    assert again.record.metrics == recorded.record.metrics
    assert again.front().equals(recorded.front())
    printed = bitfront_cli("front", recorded.name, "--uri", store_uri)
    assert "spearman" in printed.stdout
    assert "bias" in printed.stdout  # in the table, or named below it where the terminal is narrow
    rows = json.loads(bitfront_cli("front", recorded.name, "--json", "--uri", store_uri).stdout)
    assert rows[0]["spearman_float_test"] == recorded.record.baseline["spearman_test"]
    again.export("knee", tmp_path / "out", ["onnx"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| spearman ↑ | valid |" in card
    assert "| bias ↓ [K] | test |" in card
    report = json.loads((tmp_path / "out" / "export.json").read_text()) if (tmp_path / "out" / "export.json").exists() else {}
    assert not report or "spearman_test" in json.dumps(report)


@pytest.fixture
def bitfront_cli(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return what runs the command line."""
    return request.getfixturevalue("bitfront")  # type: ignore[no-any-return]
