"""`agent save`: the record of a sweep by haq is replayed, and another sweep starts with what its agent learned."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from search.searchers.haq.saved import read_agent
from search.searchers.haq.searcher import HaqSearcher
from search.sweeps import beginning

MakeExperiment = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_an_agent_is_saved_and_starts_another_sweep(
    run: Run, tmp_path: Path, experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[HaqSearcher] = []
    build = beginning.build
    monkeypatch.setattr(beginning, "build", lambda *arguments: built.append(build(*arguments)) or built[-1])
    by_haq = ("search.searcher=haq", "search.trials=12")
    first = run("sweep", experiment(), *by_haq)
    assert first.returncode == 0, first.stderr
    done = run("agent", "save", "one", "--out", "agent.safetensors")
    assert done.returncode == 0, done.stderr
    assert "wrote agent.safetensors: the agent of one" in done.stdout
    saved = read_agent(str(tmp_path / "agent.safetensors"))
    learned, replayed = (searcher.saved("").weights for searcher in built[:2])
    assert all(torch.equal(tensor, learned[name]) and torch.equal(tensor, replayed[name]) for name, tensor in saved.weights.items())
    untaught = run("sweep", experiment("two"), *by_haq)
    assert untaught.returncode == 0, untaught.stderr
    second = run("sweep", experiment("three"), *by_haq, "search.options.agent=agent.safetensors")
    assert second.returncode == 0, second.stderr
    assert built[-1]._warmup == 0
    resumed = run("resume", "three")
    assert resumed.returncode == 0, resumed.stderr
    refused = run("sweep", experiment("four"), *by_haq, "search.options.agent=nowhere.safetensors")
    assert refused.returncode == 2
    assert "agent 'nowhere.safetensors' cannot be read" in refused.stderr


def test_other_searchers_have_no_agent(run: Run, experiment: MakeExperiment) -> None:
    assert run("sweep", experiment(), "search.searcher=random", "search.trials=6").returncode == 0
    refused = run("agent", "save", "one", "--out", "agent.safetensors")
    assert refused.returncode == 2
    assert "sweep 'one' was searched by 'random'; an agent is saved of one by 'haq'" in refused.stderr
