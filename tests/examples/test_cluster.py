"""The cluster files of examples/cluster: valid, and saying what the installed versions and the command line say."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from search.config.experiment import RunSection, TrackSection

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples" / "cluster"
VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FILES / name).read_text())
    return content


def test_the_ray_file_fits_rays_own_schema() -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    schema = json.loads((Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json").read_text())
    data = load("ray.yaml")
    jsonschema.validate(data, schema)
    assert data["max_workers"] == len(data["provider"]["worker_ips"])
    starts = [line for line in data["head_start_ray_commands"] + data["worker_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=") and "--disable-usage-stats" in line for line in starts)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {"docker": "none"}, schema)


def test_the_rayjob_has_what_kuberay_requires() -> None:
    data = load("rayjob.yaml")
    assert (data["apiVersion"], data["kind"]) == ("ray.io/v1", "RayJob")
    cluster = data["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:  # rayStartParams and template are required, and every value of rayStartParams is text
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        named = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == named
    (workers,) = cluster["workerGroupSpecs"]
    assert {"groupName", "replicas", "minReplicas", "maxReplicas"} <= set(workers)
    trials = re.search(r"run\.workers=(\d+)", data["spec"]["entrypoint"])
    assert trials is not None
    assert int(trials[1]) == workers["replicas"] * int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])


def test_the_rayjobs_command_is_one_that_exists() -> None:
    entrypoint = load("rayjob.yaml")["spec"]["entrypoint"]
    assert re.findall(r"bitfront (\w+)", entrypoint) == ["front", "resume", "sweep"]
    known = {f"run.{name}" for name in RunSection.model_fields} | {f"track.{name}" for name in TrackSection.model_fields} | {"name"}
    assert set(re.findall(r"([\w.]+)=", entrypoint)) <= known
    assert not any(word in (FILES / "rayjob.yaml").read_text() for word in (f"name: {variable}" for variable in VARIABLES))
