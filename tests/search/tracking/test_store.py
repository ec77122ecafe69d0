"""The runs, tags, metrics and artifacts that MLflow shows of a sweep."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quant_core.spec.policy import Policy
from search import tracking
from search.records.summary import best_uniform, headline
from search.tracking import names
from search.tracking.client import MlflowClient
from search.tracking.store import policy_params
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected, run

pytestmark = pytest.mark.usefixtures("hasty")


def test_what_mlflow_shows(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("shown", trials=21)
    run_id, archive = run(store_uri, sweep)
    client = MlflowClient(store_uri)
    parent = client.get_run(run_id)
    assert parent.info.run_name == "shown"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"searcher": "random", "device": "vu9p", "task": "digits", "seed": "3"} | {
        f"fingerprint_{key}": value for key, value in sweep.fingerprints.items()
    }
    (used,) = parent.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", sweep.fingerprints["data"])
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "calibration, validation, test")]
    curve = client.get_metric_history(run_id, "hypervolume")
    assert [point.value for point in curve] == sorted(point.value for point in curve)
    assert curve[-1].value == pytest.approx(archive.hypervolume)
    assert len({point.step for point in curve}) == len(curve) > 3

    shown = {int(child.data.tags[names.TRIAL]): child for child in children(store_uri, run_id)}
    assert sorted(shown) == list(range(21))
    assert {n for n, child in shown.items() if child.data.tags[names.PARETO] == "true"} == set(archive.numbers)
    assert [n for n, child in shown.items() if child.data.tags[names.KNEE] == "true"] == [archive.knee]
    assert {n for n, child in shown.items() if child.info.status == "FAILED"} == {9, 19}
    third = shown[3]
    assert third.info.run_name == "shown/0003"
    weights = " ".join(str(layer.weight) for layer in sweep.trials[3].policy.values())
    assert third.data.params["sweep"] == "shown"
    assert third.data.params["searcher"] == "random"
    assert third.data.params["activation"] == "6xint8:tensor:ema"
    assert re.sub(r"(\d)x(\S+)", lambda m: " ".join([m[2]] * int(m[1])), third.data.params["weight"]) == weights
    assert third.data.tags[names.POLICY] == sweep.trials[3].policy.id
    shared = {"accuracy", "error", "loss", "weight_bytes", "latency_s", "seconds", "hypervolume", "bits_weight_avg", "bits_activation_avg"}
    charted = {"accuracy_percent", "error_percent", "size_KiB", "latency_ms"}
    assert set(third.data.metrics) == shared | charted
    assert third.data.metrics["size_KiB"] == round(third.data.metrics["weight_bytes"] / 1024, 6)
    members = [trial for trial in sweep.trials if trial.number in archive.numbers]
    first_two = sweep.trials[:2]
    shown_of_sweep = headline(sweep, members, best_uniform(sweep, first_two), 21)
    assert {name: parent.data.metrics[name] for name in shown_of_sweep if name != "trials"} == {
        name: value for name, value in shown_of_sweep.items() if name != "trials"
    }
    assert client.get_metric_history(run_id, "float_valid_percent")[0].step == 0  # known before the first trial
    assert len(client.get_metric_history(run_id, "best_valid_percent")) == len(curve)
    assert third.data.metrics["weight_bytes"] == sweep.trials[3].result.cost["weight_bytes"]
    assert third.info.end_time - third.info.start_time == 125
    volumes = [shown[n].data.metrics["hypervolume"] for n in range(21)]
    assert volumes == sorted(volumes)
    assert volumes[-1] == archive.hypervolume

    for number in range(21):
        path = client.download_artifacts(shown[number].info.run_id, "policy/policy.json")
        assert Policy.from_json(json.loads(Path(path).read_text())) == sweep.trials[number].policy
    rows = json.loads(Path(client.download_artifacts(run_id, "front.json")).read_text())
    assert [row["trial"] for row in rows] == list(archive.numbers)
    assert Path(client.download_artifacts(run_id, "experiment.toml")).read_text() == names.redact(sweep.experiment)
    assert Path("mlartifacts/bitfront").is_dir()


def test_training_curves_are_charts_over_epochs(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("trained", trials=2)
    epochs = tuple({"epoch": float(n), "loss": 1.0 / n, "accuracy": 0.5 + n / 10} for n in (1, 2, 3))
    first = replace(sweep.trials[0], result=replace(sweep.trials[0].result, epochs=epochs))
    sweep = replace(sweep, trials=(first, sweep.trials[1]))
    run_id, _ = run(store_uri, sweep)
    assert tracking.read(store_uri, "trained") == expected(sweep, run_id)
    child = next(row for row in children(store_uri, run_id) if row.data.tags[names.TRIAL] == "0")
    history = MlflowClient(store_uri).get_metric_history(child.info.run_id, "epoch_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_long_policy_is_cut_in_its_parameters() -> None:
    texts = policy_params({"specs": ["int4:channel:mse", "int8:tensor"], "codes": [[0, 1], [1, 1]] * 40})
    assert texts["activation"] == "80xint8:tensor"
    assert len(texts["weight"]) == 250
    assert texts["weight"].endswith("...")


def test_an_answer_that_is_lost_makes_no_second_run(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep("lost", trials=8)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    create, calls = MlflowClient.create_run, iter(range(1000))

    def forgetful(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        made = create(self, *arguments, **options)
        if next(calls) % 2 == 0:
            raise ConnectionError("the answer never came")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", forgetful)
    drive(tracker, sweep)
    assert tracker.finish("finished")
    assert len(children(store_uri, tracker.run_id)) == 8
