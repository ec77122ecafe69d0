"""The data of the task hf: files, folders, data sets (a stand-in for the library), and what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quant_core.util.errors import InputError
from search.tasks.hf.kinds import KINDS
from search.tasks.hf.tables import tables

CLASSES, PAIRS, TEXT = KINDS["text-classification"], KINDS["sentence-similarity"], KINDS["causal-lm"]


def rows(path: Path, kind: Any = CLASSES, **columns: Any) -> list[dict[str, Any]]:
    return list(tables(str(path), kind, columns, False)[""])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'sentence,label,more\n"one, two",3,x\n'),
        ("a.tsv", "more\tlabel\tsentence\nx\t3\tone, two\n"),
        ("a.jsonl", '{"label": "3", "sentence": "one, two", "more": 1}\n\n'),
    ],
)
def test_every_form_of_a_file_gives_the_same_rows(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert rows(tmp_path / name) == [{"text": "one, two", "label": "3"}]


def test_columns_are_named_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,score\nfirst,second,1.5\n")
    assert rows(tmp_path / "a.csv", PAIRS, text="x", text2="y") == [{"text": "first", "text2": "second", "label": "1.5"}]
    (tmp_path / "b.tsv").write_text('4.0\t"quoted\tsecond\n')
    assert rows(tmp_path / "b.tsv", PAIRS, label=0, text=1, text2=2) == [{"text": '"quoted', "text2": "second", "label": "4.0"}]


def test_one_column_does_not_serve_two_parts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sentence1,sentence2,label\na,b,0\n")
    assert rows(tmp_path / "a.csv") == [{"text": "a", "text2": "b", "label": "0"}]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        (
            "a.csv",
            "words,label\na,0\n",
            {},
            r"has the columns words, label, and none of text, .* for the text of .*columns = \{ text = 'NAME' \}",
        ),
        ("a.csv", "text,label\na,0\n", {"label": "mark"}, r"none of mark for the label"),
        (
            "a.csv",
            "text,label\na,0\n",
            {"target": "label"},
            r"columns names target; 'text-classification' takes the parts text, text2, label",
        ),
        ("a.csv", "text,label\n", {}, "has no rows"),
        ("a.csv", "text,label\na,0\nb\n", {}, r"row 2 of .*a.csv has no column 'label', but text"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{broken\n', {}, "cannot be read: Expecting property name"),
        ("a.txt", "a\n", {}, r"is plain text, and 'text-classification' needs the columns text, text2, label: give a .csv"),
        ("a.xlsx", "a\n", {}, r"files that end in .txt, .tsv, .csv, .jsonl are read"),
    ],
)
def test_what_is_missing_is_named(name: str, content: str, columns: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        rows(tmp_path / name, CLASSES, **columns)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"ok\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"a.txt cannot be read: .*UTF-8"):
        rows(tmp_path / "a.txt", TEXT)


def test_a_folder_has_splits_or_one_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no file that ends in"):
        tables(str(tmp_path), TEXT, {}, False)
    (tmp_path / "one.txt").write_text("a\n")
    assert set(tables(str(tmp_path), TEXT, {}, False)) == {""}
    (tmp_path / "two.txt").write_text("a\n")
    with pytest.raises(InputError, match=r"holds one.txt, two.txt; name them train, valid and test, or give one"):
        tables(str(tmp_path), TEXT, {}, False)
    (tmp_path / "validation.txt").write_text("a\n")
    assert set(tables(str(tmp_path), TEXT, {}, False)) == {"valid"}


def test_the_name_of_a_data_set_is_loaded_by_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library datasets is no dependency: a stand-in for the one function that is called."""
    asked: list[Any] = []

    def load_dataset(name: str, configuration: str | None, download_config: Any) -> dict[str, list[dict[str, Any]]]:
        asked.append((name, configuration, download_config["local_files_only"]))
        return {"train": [{"text": "a", "label": 0}], "validation": [{"text": "b", "label": 1}]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, DownloadConfig=dict))
    read = tables("glue:sst2", CLASSES, {}, False)
    assert {split: list(table) for split, table in read.items()} == {
        "train": [{"text": "a", "label": 0}],
        "valid": [{"text": "b", "label": 1}],
    }
    tables("glue:sst2", CLASSES, {}, True)
    assert asked == [("glue", "sst2", True), ("glue", "sst2", False)]


def test_a_data_set_that_is_not_there_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        InputError, match=r"data = 'none': there is no such file or folder; for the name of a data set, pip install datasets"
    ):
        tables("none", TEXT, {}, False)

    def load_dataset(*args: Any, **options: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, DownloadConfig=dict))
    with pytest.raises(InputError, match=r"cannot be loaded \(ConnectionError: offline\); give a file or a folder, or download = true"):
        tables("none", TEXT, {}, False)
