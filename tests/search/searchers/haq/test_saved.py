"""An agent as a file, and one that starts with it."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.searchers_problems import Case, pairs
from benchmarks.transfer import searched
from quant_core.util.errors import InputError
from search.problem.problem import Problem
from search.searchers import build
from search.searchers.haq.saved import METADATA, SCHEMA, SavedAgent, read_agent
from search.searchers.haq.searcher import HaqSearcher


@cache
def _cases() -> list[Case]:
    """Return made-up networks, whose optima take an integer program each."""
    return pairs()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an agent that made 150 policies of 20 layers of 10 choices."""
    _, agent = searched(_cases()[0], 0, 150)
    path = tmp_path_factory.mktemp("agents") / "agent.safetensors"
    agent.saved("first").write(path)
    return path


def test_an_agent_taught_on_another_network_begins_where_a_cold_one_is_not_after_more_trials(taught: Path) -> None:
    """Another number of layers, of choices, and other sensitivities: 15 policies against 50."""
    warm, _ = searched(_cases()[1], 0, 15, agent=str(taught))
    cold, _ = searched(_cases()[1], 0, 50)
    assert warm[-1] < cold[-1]


def test_the_file_holds_what_was_saved(taught: Path) -> None:
    agent = read_agent(str(taught))
    assert agent.source == "first"
    assert agent.inputs[-1] == "previous action"
    again = taught.with_name("again.safetensors")
    agent.write(again)
    assert again.read_bytes() == taught.read_bytes()
    searcher = build("haq", _cases()[1].problem, 0, 40, {"agent": str(taught)})
    assert isinstance(searcher, HaqSearcher)
    assert all(torch.equal(tensor, agent.weights[name]) for name, tensor in searcher.saved("").weights.items())


def _build(problem: Problem, path: Path) -> None:
    build("haq", problem, 0, 40, {"agent": str(path)})


def test_what_is_no_agent_or_another_ones_is_refused(taught: Path, tmp_path: Path) -> None:
    problem, agent = _cases()[1].problem, read_agent(str(taught))
    with pytest.raises(InputError, match=r"cannot be read .*bitfront agent save"):
        _build(problem, tmp_path / "absent.safetensors")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(InputError, match="cannot be read"):
        _build(problem, tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "other", {METADATA: '{"schema": "x/1"}'})
    with pytest.raises(InputError, match=f"no agent: schema 'x/1', '{SCHEMA}' needed"):
        _build(problem, tmp_path / "other")
    save_file({"a": torch.zeros(2)}, tmp_path / "list", {METADATA: "[1]"})
    with pytest.raises(InputError, match="cannot be read"):
        _build(problem, tmp_path / "list")
    save_file({"a": torch.zeros(2)}, tmp_path / "bare", {METADATA: f'{{"schema": "{SCHEMA}"}}'})
    with pytest.raises(InputError, match="cannot be read"):
        _build(problem, tmp_path / "bare")
    SavedAgent({"actor": torch.zeros(2)}, agent.inputs).write(tmp_path / "shapes")
    with pytest.raises(InputError, match="networks of other shapes"):
        _build(problem, tmp_path / "shapes")
    featured = replace(problem, features=np.zeros((len(problem.cardinalities), 1)), feature_names=("kernel",))
    with pytest.raises(InputError, match=r"sees site, .*; this one sees kernel, previous action"):
        _build(featured, taught)
