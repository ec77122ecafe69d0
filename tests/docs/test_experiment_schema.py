"""docs/experiment.schema.json is the schema of `Experiment`, and describes the files that `load` accepts."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from search.config.experiment import Experiment
from search.config.files import template

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "experiment.schema.json"


def written() -> str:
    """Return the text of the schema file. `PYTHONPATH=. python tests/docs/test_experiment_schema.py` writes it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Experiment.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def valid(data: dict[str, Any]) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    return bool(jsonschema.Draft202012Validator(json.loads(PATH.read_text())).is_valid(data))


def experiment(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"task": {"name": "digits"}, "space": {"weight": "int4", "activation": "float"}, "device": {"name": "counts"}}
    return base | changes


def test_the_file_equals_the_schema_of_the_model() -> None:
    assert PATH.read_text() == written(), "run: PYTHONPATH=. python tests/docs/test_experiment_schema.py"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_the_schema_accepts_every_example(path: Path) -> None:
    assert valid(tomllib.loads(path.read_text()))


def test_the_schema_accepts_the_template() -> None:
    assert valid(tomllib.loads(template()))


@pytest.mark.parametrize(
    "data",
    [
        experiment(space={"weight": [{"format": "int", "bits": [2, 4]}, "mxfp4"], "activation": {"format": ["mx4", "mx6"]}}),
        experiment(space={"weight": "int4", "activation": "float", "rules": [{"fix": "first", "weight": "int8"}]}),
        experiment(device={"name": "counts", "budget": {"weight_bytes": 1000, "latency_s": "60% of int8", "energy_j": "<= 1e-3"}}),
    ],
)
def test_the_schema_accepts_every_form(data: dict[str, Any]) -> None:
    Experiment.model_validate(data)
    assert valid(data)


@pytest.mark.parametrize(
    "data",
    [
        experiment(tasks={}),
        experiment(space={"weight": {"bitz": 4}, "activation": "float"}),
        experiment(device={"name": "counts", "budget": {"weight_bytes": "a quarter of float"}}),
        experiment(search={"trials": 0}),
        {"task": {"name": "digits"}},
    ],
)
def test_the_schema_refuses_a_misspelt_file(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Experiment.model_validate(data)
    assert not valid(data)


if __name__ == "__main__":
    PATH.write_text(written())
