"""From keyword arguments to an experiment: each is a key of one section of the experiment file, checked by the same model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quant_core.util.errors import InputError
from search.config.experiment import Experiment
from search.config.files import from_data

_SQLITE = "sqlite:///"
_PLACES: dict[str, tuple[str, str]] = {
    "task_options": ("task", "options"),
    "weight": ("space", "weight"),
    "activation": ("space", "activation"),
    "rules": ("space", "rules"),
    "device": ("device", "name"),
    "objectives": ("device", "objectives"),
    "budget": ("device", "budget"),
    "searcher": ("search", "searcher"),
    "trials": ("search", "trials"),
    "seed": ("search", "seed"),
    "fidelity": ("evaluate", "fidelity"),
    "ladder": ("evaluate", "ladder"),
    "qat": ("evaluate", "qat"),
    "calib": ("evaluate", "calib"),
    "valid": ("evaluate", "valid"),
    "test": ("evaluate", "test"),
    "record": ("track", "uri"),
    "experiment": ("track", "experiment"),
    "backend": ("run", "backend"),
    "workers": ("run", "workers"),
    "threads": ("run", "threads"),
}
"""Keyword -> section and key of the experiment file."""


def experiment_of(task: str, keywords: Mapping[str, Any], options: Mapping[str, Any]) -> Experiment:
    """Return the experiment that a task's name, keyword arguments (None: left out) and further keys by section describe.

    Raises:
        InputError: a key is given twice, or the experiment is not valid; every fault is listed.
    """
    data: dict[str, Any] = {"task": {"name": task}, "space": {}, "device": {}}
    for section, table in options.items():
        if isinstance(table, Mapping):
            data[section] = {**data.get(section, {}), **table}
        else:
            data[section] = table
    for keyword, value in keywords.items():
        if value is None:
            continue
        if keyword == "name":
            data["name"] = value
            continue
        section, key = _PLACES[keyword]
        table = data.setdefault(section, {})
        if not isinstance(table, dict):
            continue  # the model says what is wrong with it
        if key in table:
            raise InputError(f"{keyword} = {value!r} and options[{section!r}][{key!r}] = {table[key]!r} given; give one of them.")
        table[key] = _plain(value)
    return from_data(data, "bitfront.sweep")


def absolute(uri: str) -> str:
    """Return a tracking uri that means the same file from every working folder.

    >>> absolute("http://host:5000"), absolute("sqlite:////data/mlflow.db")
    ('http://host:5000', 'sqlite:////data/mlflow.db')
    """
    if not uri.startswith(_SQLITE) or uri == _SQLITE or ":memory:" in uri:
        return uri
    return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).absolute()}"


def _plain(value: Any) -> Any:
    """Return paths as texts, and sequences and tables as the experiment's model takes them."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value
