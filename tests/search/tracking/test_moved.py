"""A project folder that was moved: what is recorded from then on, and what was before, lies beside the store."""

import shutil
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from search import tracking
from search.tracking.client import MlflowClient
from search.tracking.moved import follow
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected

pytestmark = pytest.mark.usefixtures("hasty")


def made(empty_store: Path, folder: Path) -> str:
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def test_a_sweep_that_is_resumed_in_a_moved_folder_leaves_the_old_place_alone(
    empty_store: Path, tmp_path: Path, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep, old, new = make_sweep("moved", trials=14), tmp_path / "old project", tmp_path / "new place"
    uri = made(empty_store, old)
    monkeypatch.chdir(old)
    tracker = tracking.start(uri, "a b/c", sweep, PARAMS)
    drive(tracker, sweep, sweep.trials[:8])
    assert tracker.finish("stopped")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict())  # as in a new process
    old.rename(new)
    uri = f"sqlite:///{new}/mlflow.db"
    again = tracking.open(uri, None, "moved")
    drive(again, sweep)
    again.artifact("late", "late.txt")
    assert again.finish("finished")
    assert not old.exists()
    assert tracking.read(uri, "moved") == expected(sweep, tracker.run_id)
    said = [record.getMessage() for record in caplog.records if "was moved" in record.getMessage()]
    assert said == [f"The project folder was moved: artifacts are looked for in {new}/mlartifacts/a b/c from now on."]
    client = MlflowClient(uri)
    kept = [(client.get_run(tracker.run_id), name) for name in ("front.json", "late.txt")]
    kept += [(row, "policy/policy.json") for row in children(uri, tracker.run_id)]
    files = [Path(url2pathname(urlsplit(row.info.artifact_uri).path)) / name for row, name in kept]
    assert [file for file in files if not (file.is_file() and file.is_relative_to(new))] == []


def test_addresses_that_lead_somewhere_and_those_of_other_places_stay(empty_store: Path, tmp_path: Path) -> None:
    uri = made(empty_store, tmp_path / "a")
    client, places = MlflowClient(uri), {"here": (tmp_path / "a/mlartifacts/here").as_uri(), "s3": "s3://bucket/mlartifacts/s3"}
    places["gone"] = "file:///nowhere/mlartifacts/gone"  # and nothing of that name lies beside the store
    for name, place in places.items():
        client.create_experiment(name, artifact_location=place)
    (tmp_path / "a/mlartifacts/here").mkdir(parents=True)
    follow(uri)
    assert {name: client.get_experiment_by_name(name).artifact_location for name in places} == places
    follow(f"sqlite:///{tmp_path}/none.db")
    follow("http://127.0.0.1:1")
