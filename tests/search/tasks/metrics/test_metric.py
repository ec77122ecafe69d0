"""Metrics by name, by function, by mapping."""

import pytest
import torchmetrics

from quant_core.util.errors import InputError
from search.tasks.metrics import METRICS
from search.tasks.metrics.metric import Metric, chosen_metrics, metric


def half(_outputs: object, _targets: object) -> float:
    return 0.5


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_the_table_is_made_by_its_name(name: str) -> None:
    (entry,) = chosen_metrics(name)
    assert entry.name == name
    for info in entry.infos:
        assert info.error(info.value(0.25)) == pytest.approx(0.25)
        assert info.error(0.5) >= 0


def test_metrics_are_one_or_several_or_named() -> None:
    assert [entry.name for entry in chosen_metrics(("psnr:255", half))] == ["psnr", "half"]
    assert [entry.name for entry in chosen_metrics({"share": half, "top5": "accuracy:5"})] == ["share", "top5"]
    own = metric(half, "own", higher=False, unit="dB")
    assert chosen_metrics(own) == (own,)


def test_a_function_of_a_module_is_named_by_its_path() -> None:
    (entry,) = chosen_metrics("search.tasks.metrics.classes:accuracy")
    assert isinstance(entry, Metric)


def test_the_best_value_follows_from_direction_and_unit() -> None:
    assert metric(half).infos[0].best == 1.0
    assert metric(half, higher=False).infos[0].best == 0.0
    assert metric(half, unit="dB").infos[0].best is None
    assert metric(half, best=100.0).infos[0].error(97.0) == 3.0


@pytest.mark.parametrize("name", ["loss", "latency_s", "weight_bytes", "accuracy_test", "a|b", "", "é", "x" * 61, "a\nb"])
def test_names_that_the_record_uses_or_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"a metric named .* given; up to 60 letters, .*, and no name of a record \(error, loss, "):
        chosen_metrics({name: half})


def test_a_collection_of_torchmetrics_is_its_members() -> None:
    collection = torchmetrics.MetricCollection(
        [torchmetrics.classification.MulticlassAccuracy(4), torchmetrics.MeanSquaredError()], prefix="own "
    )
    made = chosen_metrics(collection)
    assert [(metric.name, metric.infos[0].higher) for metric in made] == [("own MulticlassAccuracy", True), ("own MeanSquaredError", False)]
