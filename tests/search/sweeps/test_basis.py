"""What solving needs of a network, kept beside the sensitivities: bound to all that it was made of."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw_models.loading import load_device
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import parse
from search.config.experiment import Experiment
from search.sweeps import basis
from search.sweeps.basis import Basis, keep, kept, plan_of
from search.sweeps.plan import build_space
from search.sweeps.ties import Tie

LAYERS = tuple(Layer(f"l{n}", "linear", n + 3, n + 4, (n + 4, n + 3), (1,), (1,), (n + 4) * (n + 3)) for n in range(3))
TIES = (Tie("activation", ("l0", "l2"), "format vllm"),)
RISES = tuple(np.array([0.5 / (n + 1), 0.0]) for n in range(5))
PRINTS = {"weights": "aa", "data": "2:bb", "space": "cc"}
BASIS = Basis(LAYERS, TIES, RISES, 40.0, ((2, 8), (2, 8)))


def experiment(task: str = "digits", options: dict[str, Any] | None = None, **device: object) -> Experiment:
    choices = ["int4:tensor", "int8:tensor"]
    sections = {"task": {"name": task, "options": options or {}}, "space": {"weight": choices, "activation": choices}}
    return Experiment.model_validate(sections | {"device": {"name": "counts", **device}})


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_basis_comes_back_as_it_was_kept_and_gives_the_same_choices_under_any_budget() -> None:
    keep(BASIS, experiment(), PRINTS)
    back = kept(experiment(budget={"weight_bytes": 30}), PRINTS | {"space": "of another budget"})
    assert back is not None
    assert (back.layers, back.ties, back.uncounted_bytes, back.heads) == (LAYERS, TIES, 40.0, ((2, 8), (2, 8)))
    for row, wanted in zip(back.rises, RISES, strict=True):
        np.testing.assert_array_equal(row, wanted)
    plan = plan_of(back, experiment(budget={"model_bytes": 100}), ["accuracy"])
    space = build_space(LAYERS, experiment().space, load_device("counts"), TIES)
    assert (plan.space.cardinalities, plan.limits) == (space.cardinalities, {"weight_bytes": 60.0})
    assert len(space.dimensions) == 5
    assert parse("int8:tensor") in {choice.activation for choice in plan.space.layer_choices["l2"]}


CHANGED = {
    "weights": (experiment(), PRINTS | {"weights": "ab"}),
    "data": (experiment(), PRINTS | {"data": "2:ab"}),
    "evaluation": (experiment().model_copy(update={"evaluate": experiment().evaluate.model_copy(update={"calib": 64})}), PRINTS),
    "device": (experiment().model_copy(update={"device": experiment(name="vu9p-bitserial").device}), PRINTS),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_a_basis_of_something_else_is_not_taken(changed: str) -> None:
    keep(BASIS, experiment(), PRINTS)
    assert kept(experiment(), PRINTS) is not None
    assert kept(*CHANGED[changed]) is None


def test_a_change_of_the_code_of_the_source_or_of_a_named_file_asks_for_the_network_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source, data = tmp_path / "task_of_mine.py", tmp_path / "weights.bin"
    source.write_text("def make(path): ...")
    data.write_bytes(b"12")
    mine = experiment("task_of_mine:make", {"path": str(data)})
    keep(BASIS, mine, PRINTS)
    assert kept(mine, PRINTS) is not None
    data.write_bytes(b"123")
    assert kept(mine, PRINTS) is None
    keep(BASIS, mine, PRINTS)
    source.write_text("def make(path): ...  # otherwise")
    assert kept(mine, PRINTS) is None
    keep(BASIS, mine, PRINTS)
    (tmp_path / "helper.py").write_text("")
    assert kept(mine, PRINTS) is None
    keep(BASIS, mine, PRINTS)
    monkeypatch.setattr(basis, "CODE", ("quant_core",))
    assert kept(mine, PRINTS) is None


def test_what_earlier_code_measured_can_be_shown_and_nothing_else(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(basis, "CODE", ("quant_core",))
    keep(BASIS, experiment(), PRINTS)
    monkeypatch.setattr(basis, "CODE", ("quant_core", "spaces"))
    assert kept(experiment(), PRINTS) is None, "solving from it would be solving by other code"
    shown = kept(experiment(), PRINTS, earlier=True)
    assert shown is not None
    assert shown.uncounted_bytes == 40.0
    assert kept(experiment(), PRINTS | {"weights": "ab"}, earlier=True) is None
    keep(replace(BASIS, uncounted_bytes=50.0), experiment(), PRINTS)
    present = kept(experiment(), PRINTS, earlier=True)
    assert present is not None
    assert present.uncounted_bytes == 50.0
    assert len(list((cache / "basis").iterdir())) == 2


def test_a_task_without_a_source_is_not_kept(cache: Path) -> None:
    for name in ("task:object", "no_such_module:make"):
        keep(BASIS, experiment(name), PRINTS)
        assert kept(experiment(name), PRINTS) is None
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "nonsense", "0" * 64 + "\n[]"])
def test_a_damaged_file_is_not_taken(cache: Path, text: str) -> None:
    keep(BASIS, experiment(), PRINTS)
    (path,) = (cache / "basis").iterdir()
    path.write_text(text)
    assert kept(experiment(), PRINTS) is None


def test_a_cache_that_cannot_be_written_costs_time_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "file"))
    keep(BASIS, experiment(), PRINTS)
    assert kept(experiment(), PRINTS) is None
