"""The local journal: nothing lost, nothing half-read, one writer."""

from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError, InputError
from search.tracking.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    journal = Spool(tmp_path / "journal", "run")
    journal.acquire()
    return journal


def test_lines_come_back_in_order_until_they_are_sent(spool: Spool) -> None:
    lines = [{"op": "trial", "n": n} for n in range(5)]
    for line in lines:
        spool.append(line)
    first, offset = spool.unsent(2)
    assert first == lines[:2]
    spool.mark_sent(offset)
    assert Spool(spool.path.parent, "run").unsent()[0] == lines[2:]
    spool.mark_sent(spool.unsent()[1])
    assert spool.unsent() == ([], spool.path.stat().st_size)


def test_a_half_written_line_is_not_read_and_dropped_by_the_next_holder(spool: Spool) -> None:
    spool.append({"n": 1})
    with spool.path.open("ab") as file:
        file.write(b'{"n": 2')
    assert spool.unsent()[0] == [{"n": 1}]
    spool.release(remove=False)
    again = Spool(spool.path.parent, "run")
    again.acquire()
    again.append({"n": 3})
    assert again.unsent()[0] == [{"n": 1}, {"n": 3}]


def test_one_process_holds_it(spool: Spool) -> None:
    other = Spool(spool.path.parent, "run")
    assert not other.try_acquire()
    with pytest.raises(InputError, match=r"another process is writing this sweep .* stop that one first"):
        other.acquire()
    spool.release(remove=False)
    other.acquire()


def test_removal_leaves_nothing_and_files_keep_their_latest_content(spool: Spool) -> None:
    spool.append({"n": 1})
    spool.keep_file("policy/a.json", b"old")
    assert spool.keep_file("policy/a.json", b"new").read_bytes() == b"new"
    spool.mark_sent(1)
    spool.release(remove=True)
    assert list(spool.path.parent.iterdir()) == []
    assert Spool(spool.path.parent, "run").unsent() == ([], 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BitfrontError, match=r"cannot write .*run\.jsonl: File exists; make its folder writable"):
        Spool(tmp_path / "file", "run").acquire()


def test_a_full_disk_is_said_and_leaves_no_half_written_file(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    spool.keep_file("front.json", b"[]")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BitfrontError, match=r"cannot write .*front.json: No space left on device; free some space there, then resume"):
        spool.keep_file("front.json", b"[1, 2]")
    assert [path.name for path in spool.files.iterdir()] == ["front.json"]
    assert (spool.files / "front.json").read_bytes() == b"[]"
