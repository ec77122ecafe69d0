"""The cache of trained weights: one training, verified reads, atomic writes."""

import os
import sys
from pathlib import Path

import pytest
import torch

from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder
from search.tasks.cache import State, digest, trained
from tests.forked import Started


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    return tmp_path


class Training:
    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> State:
        self.runs += 1
        return {"weight": torch.arange(6.0).view(2, 3) * self.runs, "steps": torch.tensor(7)}


def test_second_call_reads_what_the_first_trained(folder: Path) -> None:
    training = Training()
    first, second = trained("net", {"seed": 0}, training), trained("net", {"seed": 0}, training)
    assert training.runs == 1
    assert digest(first) == digest(second)
    assert torch.equal(second["weight"], torch.arange(6.0).view(2, 3))
    assert [path.name for path in folder.iterdir()] == [next(folder.glob("net-*.safetensors")).name], "nothing temporary is left"


def test_another_recipe_trains_anew() -> None:
    training = Training()
    trained("net", {"seed": 0, "rate": 0.1}, training)
    trained("net", {"rate": 0.1, "seed": 0}, training)
    assert training.runs == 1, "the order of the keys means nothing"
    trained("net", {"seed": 0, "rate": 0.2}, training)
    assert training.runs == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_damaged_file_is_trained_anew(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    training = Training()
    trained("net", {"seed": 0}, training)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]
    path.write_bytes({"cut": whole[:-5], "flipped": flipped, "text": b"hello, world", "empty": b""}[damage])
    assert torch.equal(trained("net", {"seed": 0}, training)["weight"], torch.arange(6.0).view(2, 3) * 2)
    assert "training anew" in caplog.text
    trained("net", {"seed": 0}, training)
    assert training.runs == 2


def test_failing_training_leaves_nothing(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="NaN"):
        trained("net", {}, lambda: (_ for _ in ()).throw(RuntimeError("NaN")))
    assert not list(folder.iterdir())


def test_process_that_finishes_first_wins(folder: Path) -> None:
    def slow() -> State:
        trained("net", {"seed": 0}, Training())  # another process ends while this one still trains
        return {"weight": torch.zeros(1)}

    assert "steps" in trained("net", {"seed": 0}, slow)


def test_two_processes_at_once_agree(folder: Path) -> None:
    code = (
        "import torch; from search.tasks.cache import trained, digest; torch.manual_seed(0)\n"
        "print(digest(trained('net', {'seed': 0}, lambda: {'w': torch.randn(300, 300)})))"
    )
    running = [Started(script=code) for _ in range(2)]
    said = [process.communicate(timeout=600)[0] for process in running]
    assert said[0] == said[1] != ""
    assert len(list(folder.iterdir())) == 1


def test_unwritable_folder_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "file" / "cache"))
    training = Training()
    with pytest.raises(InputError, match=r"cannot write trained weights to .*Set BITFRONT_CACHE to a writable folder"):
        trained("net", {}, training)
    assert training.runs == 0


def test_cache_lies_in_the_users_cache_directory_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path
    monkeypatch.delenv("BITFRONT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if os.name == "posix" and sys.platform != "darwin":
        assert cache_folder() == tmp_path / "xdg" / "bitfront"
    assert cache_folder().name == "bitfront"


def test_digest_sees_names_shapes_types_and_values() -> None:
    base = {"a": torch.arange(4.0)}
    others = [
        {"b": torch.arange(4.0)},
        {"a": torch.arange(4.0).view(2, 2)},
        {"a": torch.arange(4.0).int()},
        {"a": torch.arange(4.0) + 1},
        {"a": torch.arange(4.0), "b": torch.zeros(0)},
    ]
    assert len({digest(tensors) for tensors in [base, *others]}) == 6
