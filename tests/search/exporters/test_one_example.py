"""Files that take one example: ways of writing them one after the other, and one size of inputs."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError, InputError
from search.exporters import one_example
from search.exporters.one_example import verified
from search.exporters.verify import Compared
from tests.search.exporters.test_onnx_qdq import bundle

RUNTIME = ("litert", "LiteRT")
GOOD, BAD = Compared(1.0, 1.0, 0.0, 9.0, 10), Compared(0.5, 0.5, 9.0, 9.0, 10)


class File:
    """A file of nothing."""

    def save(self, path: Path) -> None:
        path.write_bytes(b"")


Ways = list[tuple[Callable[[], File], str]]


def ways(fault: BitfrontError | None = None, count: int = 2) -> tuple[list[int], Ways]:
    """Return the ways that were taken, to be filled, and ways of which the first one raises `fault`."""
    taken: list[int] = []

    def made(way: int) -> File:
        taken.append(way)
        if way == 0 and fault is not None:
            raise fault
        return File()

    return taken, [(partial(made, way), f"way {way}: {{}}") for way in range(count)]


def notes(monkeypatch: pytest.MonkeyPatch, path: Path, tried: Ways, answers: list[Compared]) -> tuple[str, ...]:
    monkeypatch.setattr(one_example, "compare", lambda bundle, run: answers.pop(0))
    return verified(bundle("weight=int8:channel"), path / "file", tried, RUNTIME)[2]


def test_the_first_way_is_taken_where_it_gives_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, tried = ways()
    assert notes(monkeypatch, tmp_path, tried, [GOOD]) == ()
    assert taken == [0]
    assert (tmp_path / "file").exists()
    taken, tried = ways(count=1)
    assert notes(monkeypatch, tmp_path, tried, [GOOD]) == ()


def test_where_it_changes_outputs_or_fails_the_next_way_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, tried = ways()
    (note,) = notes(monkeypatch, tmp_path, tried, [BAD, GOOD])
    assert note.startswith("way 1: top-1 agrees on 50.00% of 10")
    assert taken == [0, 1]
    taken, tried = ways(BitfrontError("it does not lower this"))
    assert notes(monkeypatch, tmp_path, tried, [GOOD]) == ("way 1: it does not lower this",)
    assert taken == [0, 1]
    taken, tried = ways(count=3)
    (note,) = notes(monkeypatch, tmp_path, tried, [BAD, BAD, GOOD])
    assert (note[:6], taken) == ("way 2:", [0, 1, 2])
    with pytest.raises(BitfrontError, match=r"^LiteRT does not give the outputs that the search measured: top-1 agrees on 50"):
        notes(monkeypatch, tmp_path, ways()[1], [BAD, BAD, BAD])


def test_what_a_file_cannot_hold_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, tried = ways(InputError("no such weights"))
    with pytest.raises(InputError, match=r"^no such weights$"):
        notes(monkeypatch, tmp_path, tried, [])
    assert taken == [0]


def test_batches_of_other_sizes_are_refused_in_one_sentence(tmp_path: Path) -> None:
    made_of, (taken, tried) = bundle("weight=int8:channel"), ways()
    network = dataclasses.replace(made_of.network, others=(made_of.network.example[:, :2],))
    with pytest.raises(
        InputError, match=r"^a file of LiteRT takes inputs of one size alone, and batches have other lengths.*or openvino\.$"
    ):
        verified(dataclasses.replace(made_of, network=network), tmp_path / "file", tried, RUNTIME)
    assert taken == []


def test_differences_that_rounding_makes_in_the_network_itself_are_no_reason_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_example, "in_float64", lambda bundle: BAD)
    taken, tried = ways()
    assert notes(monkeypatch, tmp_path, tried, [BAD]) == ()
    assert taken == [0]
    monkeypatch.setattr(one_example, "in_float64", lambda bundle: None)
    taken, tried = ways()
    assert len(notes(monkeypatch, tmp_path, tried, [BAD, GOOD])) == 1
    assert taken == [0, 1]
