"""The table of tasks and its loader."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.util.errors import BitfrontError, InputError
from search.tasks import TASKS, load
from search.tasks.cache import digest
from search.tasks.task import Task

ROOT = Path(__file__).parents[3]


def good(size: int = 4) -> Task:
    data = [(torch.zeros(size, 3), torch.zeros(size, dtype=torch.int64))]
    return Task(nn.Linear(3, 2).train(), data, data, data, data)


def no_test_split() -> Task:
    return replace(good(), test=[])


def endless() -> Task:
    return replace(good(), calib=5)  # type: ignore[arg-type]


def no_model() -> Task:
    return replace(good(), model="net")  # type: ignore[arg-type]


def no_targets() -> Task:
    return replace(good(), valid=[torch.zeros(2, 3)])  # type: ignore[list-item]


def read_once() -> Task:
    return replace(good(), train=iter(good().train))


def empty_batch() -> Task:
    return replace(good(), calib=[(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))])


def scalar_targets() -> Task:
    return replace(good(), train=[(torch.zeros(3), torch.tensor(1))])


def array_targets() -> Task:
    return replace(good(), train=[(torch.zeros(2, 3), [0, 1])])  # type: ignore[list-item]


def untold_seed() -> Task:
    return replace(good(), model=nn.Linear(3, 2))


def raises() -> Task:
    raise KeyError("pixels")


def refuses() -> Task:
    raise InputError("put the files there.")


def needs(path: str, *, other: int = 1) -> Task:
    return good()


def not_a_task() -> int:
    return 3


NOT_CALLABLE = 7


HERE = "test_tasks_own"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def test_own_task_gets_its_options_and_is_put_in_eval_mode() -> None:
    task = load(f"{HERE}:good", {"size": 2})
    assert len(next(iter(task.test))[1]) == 2
    assert not task.model.training


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("digit", {}, InputError, r"unknown task 'digit'; known: .*digits.* Did you mean 'digits'\?.*package.module:function|attribute"),
        ("digits", {"sed": 1}, InputError, r"has no option 'sed'; its options: seed: int = 0, .* Did you mean 'seed'\?"),
        (f"{HERE}:needs", {}, InputError, r"needs the option path; its options: path: str, other: int = 1"),
        (f"{HERE}:not_a_task", {}, InputError, "gave a int; it must return a bitfront.Task whose model is a torch.nn.Module"),
        (f"{HERE}:no_model", {}, InputError, "gave a str; it must return a bitfront.Task whose model is a torch.nn.Module"),
        (f"{HERE}:no_targets", {}, InputError, r"its valid gives batches of type Tensor; every batch must be \(inputs, targets\)"),
        (f"{HERE}:read_once", {}, InputError, "its train is a list_iterator; give what can be read again and again"),
        (f"{HERE}:empty_batch", {}, InputError, "its calib is empty; every one of train, calib, valid, test needs"),
        (f"{HERE}:scalar_targets", {}, InputError, r"its train gives batches of type tuple of Tensor, Tensor; .* targets a tensor \[N"),
        (f"{HERE}:array_targets", {}, InputError, "its train gives batches of type tuple of Tensor, list; every batch must be"),
        ("builtins:dict", {}, InputError, "is no function of keyword options"),
        (f"{HERE}:NOT_CALLABLE", {}, InputError, "is a int, not a function"),
        (f"{HERE}:no_test_split", {}, InputError, "its test is empty; every one of train, calib, valid, test"),
        (f"{HERE}:endless", {}, InputError, "its calib is a int; give what can be read again and again"),
        (f"{HERE}:raises", {}, BitfrontError, f"task '{HERE}:raises' failed with KeyError: 'pixels'"),
        (f"{HERE}:refuses", {}, InputError, r"^put the files there.$"),
        (f"{HERE}:missing", {}, InputError, "has no 'missing'"),
        ("digits", {"calib_size": 0}, InputError, "calib_size = 0: give a whole number from 1 to 898"),
        ("digits", {"test_size": 601}, InputError, "test_size = 601: give a whole number from 1 to 600"),
        ("digits", {"valid_size": "all"}, InputError, "valid_size = 'all': give a whole number from 1 to 299"),
    ],
)
def test_bad_tasks_are_refused(name: str, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        load(name, options)
    assert isinstance(raised.value, InputError) == (error is InputError)


def test_module_that_fails_while_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BitfrontError, match="importing 'breaks' of 'breaks:make' failed with ZeroDivisionError: division by zero"):
        load("breaks:make", {})


def test_task_that_does_not_seed_gives_the_same_twice_and_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    one, two = (load(f"{HERE}:untold_seed", {}).model.state_dict() for _ in range(2))
    assert digest(one) == digest(two)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_table_is_free_of_torch() -> None:
    code = "import search.tasks, sys; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", TASKS)
def test_every_entry_of_the_table_is_a_documented_function_with_defaults(name: str) -> None:
    import inspect

    from quant_core.util.registry import resolve

    function = resolve(TASKS, "task", name)
    assert inspect.isfunction(function)
    assert function.__doc__
    needed = {p.name for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty}
    assert needed == {"image_folder": {"path", "model"}, "hf": {"model", "kind", "data"}}.get(name, set())
    assert inspect.signature(function).return_annotation in (Task, "Task")


def test_the_earlier_address_of_task_is_the_same_class() -> None:
    from search import task

    assert task.Task is Task
