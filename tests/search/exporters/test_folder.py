"""The folder of an export: whole or absent, and nothing of anybody else's is removed."""

import json
from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search.exporters.folder import REPORT, check_target, put_in_place, restore, scratch_folder


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


def leftovers(tmp_path: Path, stage: str) -> Path:
    """Leave what a writer that replaces an export leaves when it is killed at a stage."""
    out, scratch = tmp_path / "out", tmp_path / ".out.k3y0x.tmp"
    out.mkdir()
    (out / "sub").mkdir()
    (out / "sub" / "c").touch()
    written(out, policy="old", **{"sub/c": "c"})
    (scratch / "export").mkdir(parents=True)
    (scratch / "lock").touch()
    (scratch / "export" / "sub").mkdir()
    (scratch / "export" / "sub" / "half").write_text("half")
    if stage in ("between", "after"):
        written(scratch / "export", policy="new")
        out.rename(scratch / "old")
    if stage == "after":
        (scratch / "export").rename(out)
    return out


@pytest.mark.parametrize(("stage", "text"), [("before", "old"), ("between", "old"), ("after", "new")])
def test_a_writer_that_was_killed_leaves_an_export_and_no_scratch(tmp_path: Path, stage: str, text: str) -> None:
    out = leftovers(tmp_path, stage)
    restore(out)
    assert (out / "policy").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_scratch_of_a_living_writer_is_left_alone_whatever_its_process_id(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with scratch_folder(out) as folder:
        written(folder, policy="new")
        restore(out)  # as another writer with the same process id, in another container, would
        put_in_place(folder, out)
    assert (out / "policy").read_text() == "new"


def test_files_of_others_in_a_scratch_folder_stay(tmp_path: Path) -> None:
    out = leftovers(tmp_path, "after")
    scratch = tmp_path / ".out.k3y0x.tmp"
    (scratch / "old" / "mine.txt").write_text("kept")
    restore(out)
    assert (scratch / "old" / "mine.txt").read_text() == "kept"
    (scratch / "strange").touch()
    (scratch / "export").mkdir()
    restore(out)
    assert sorted(path.name for path in scratch.iterdir()) == ["export", "lock", "old", "strange"]
    (tmp_path / ".out.other.tmp").mkdir()
    restore(out)
    assert (tmp_path / ".out.other.tmp").is_dir()


def test_links_are_not_followed(tmp_path: Path) -> None:
    out, victim = leftovers(tmp_path, "before"), tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    (tmp_path / ".out.link.tmp").symlink_to(victim)
    (tmp_path / ".out.k3y0x.tmp" / "export" / "link").symlink_to(victim)
    restore(out)
    assert (victim / "kept").is_file()
