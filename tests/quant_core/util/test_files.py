from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from quant_core.util.files import replacing, require_writable, write_bytes, write_text


def test_writes_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "two")
    assert [(path.name, path.read_text()) for path in (tmp_path / "new").iterdir()] == [("a.txt", "two")]


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*file/a\.txt: .* Give a place that can be written"):
        write_text(tmp_path / "file" / "a.txt", "one")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*folder: "):
        write_text(tmp_path / "folder", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_place_is_refused_before_the_work_and_no_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    require_writable(tmp_path / "new" / "folder" / "a.txt")
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: .*file is a file\. Give a place that can be written"):
        require_writable(tmp_path / "file" / "a.txt")
    with pytest.raises(InputError, match=r"is a folder\. Give a place"):
        require_writable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_the_temporary_file_is_new_unguessable_and_beside_the_target(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a.txt") as temporary:
            assert temporary.parent == tmp_path
            assert temporary.read_bytes() == b""
            names.add(temporary.name)
    assert len(names) == 3


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    monkeypatch.setattr("quant_core.util.files.secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".a.txt.guessed.tmp").symlink_to(victim)
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: File exists"):
        write_text(tmp_path / "a.txt", "one")
    assert victim.read_text() == "untouched"
    assert (tmp_path / ".a.txt.guessed.tmp").is_symlink()


def test_the_mode_of_a_new_file_is_that_of_the_umask(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    (tmp_path / "b.txt").write_text("one")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode
