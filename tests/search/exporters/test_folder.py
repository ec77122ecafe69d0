"""The folder of an export: whole or absent, and nothing of anybody else's is removed."""

import json
from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search.exporters.folder import REPORT, check_target, put_in_place, scratch_folder


def written(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / REPORT).write_text(json.dumps({"formats": {"policy": {"files": list(files)}}}))


def test_it_appears_whole_and_leaves_no_scratch(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with scratch_folder(out) as folder:
        written(folder, policy="1")
        assert not out.exists()
        put_in_place(folder, out)
    assert (out / "policy").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_export_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    written(out, policy="old")
    with pytest.raises(RuntimeError), scratch_folder(out) as folder:  # noqa: PT012
        written(folder, policy="new")
        raise RuntimeError
    assert (out / "policy").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    check_target(out, force=True)
    with scratch_folder(out) as folder:
        written(folder, policy="new")
        put_in_place(folder, out)
    assert (out / "policy").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_of_others_are_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    written(out, policy="1")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match=r"holds files that no export wrote: notes/mine\.txt\. Move them"):
        check_target(out, force=True)


@pytest.mark.parametrize("text", ["", "[]", '{"formats": 3}', "[" * 100_000, '{"formats": {"a": {}}}'])
def test_a_damaged_report_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / REPORT).write_text(text)
    with pytest.raises(InputError, match=r"export\.json is damaged"):
        check_target(tmp_path, force=True)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    written(victim, policy="1")
    (tmp_path / "out").symlink_to(victim)
    with pytest.raises(InputError, match="exists; give another folder"):
        check_target(tmp_path / "out", force=True)
