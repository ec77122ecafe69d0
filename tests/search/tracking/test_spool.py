"""The local journal: nothing lost, nothing half-read, one writer."""

import os
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError, InputError
from search.tracking.spool import Spool

RUN = "0123456789abcdef" * 2


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    journal = Spool(tmp_path / "journal", RUN)
    journal.acquire()
    return journal


def test_lines_come_back_in_order_until_they_are_sent(spool: Spool) -> None:
    lines = [{"op": "note", "n": n} for n in range(5)]
    for line in lines:
        spool.append(line)
    first, offset = spool.unsent(2)
    assert first == lines[:2]
    spool.mark_sent(offset)
    assert Spool(spool.path.parent, RUN).unsent()[0] == lines[2:]
    spool.mark_sent(spool.unsent()[1])
    assert spool.unsent() == ([], spool.path.stat().st_size)


def test_a_half_written_line_is_not_read_and_dropped_by_the_next_holder(spool: Spool) -> None:
    spool.append({"n": 1})
    with spool.path.open("ab") as file:
        file.write(b'{"n": 2')
    assert spool.unsent()[0] == [{"n": 1}]
    spool.release(remove=False)
    again = Spool(spool.path.parent, RUN)
    again.acquire()
    again.append({"n": 3})
    assert again.unsent()[0] == [{"n": 1}, {"n": 3}]


def test_one_process_holds_it(spool: Spool) -> None:
    other = Spool(spool.path.parent, RUN)
    assert not other.try_acquire()
    with pytest.raises(InputError, match=r"another process is writing this sweep .* stop that one first"):
        other.acquire()
    spool.release(remove=False)
    other.acquire()


def test_removal_leaves_nothing_and_files_keep_their_latest_content(spool: Spool) -> None:
    spool.append({"n": 1}, {"op": "artifact", "name": "policy/a.json"})
    spool.keep_file("policy/a.json", b"old")
    assert spool.keep_file("policy/a.json", b"new").read_bytes() == b"new"
    spool.mark_sent(1)
    spool.release(remove=True)
    assert list(spool.path.parent.iterdir()) == []
    assert Spool(spool.path.parent, RUN).unsent() == ([], 0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BitfrontError, match=r"cannot write .*\.jsonl: File exists; make its folder writable"):
        Spool(tmp_path / "file", RUN).acquire()


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


@pytest.mark.parametrize("run_id", ["../..", "/etc", "", ".", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "/", "0" * 31 + "\n"])
def test_what_is_no_run_id_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(InputError, match="is no MLflow run id"):
        Spool(tmp_path, run_id)


def test_only_what_the_journal_names_is_removed(spool: Spool) -> None:
    spool.append({"op": "artifact", "name": "front.json"})
    spool.keep_file("front.json", b"[]")
    (spool.files / "mine.txt").write_text("kept")
    spool.release(remove=True)
    assert [path.name for path in spool.files.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["../victim", "/tmp/victim", "a/../../victim", ""])
def test_an_artifact_stays_in_its_folder(spool: Spool, name: str) -> None:
    victim = spool.path.parent / "victim"
    victim.write_text("kept")
    with pytest.raises(InputError, match=r"a relative path without '\.\.' is needed"):
        spool.keep_file(name, b"")
    spool.append({"op": "artifact", "name": name})
    assert spool.unsent()[0] == []
    spool.release(remove=True)
    assert victim.read_text() == "kept"


def test_a_journal_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("no line")
    (tmp_path / f"{RUN}.jsonl").symlink_to(victim)
    with pytest.raises(BitfrontError, match="cannot write"):
        Spool(tmp_path, RUN).acquire()
    assert victim.read_text() == "no line"


def test_a_journal_without_a_holder_is_abandoned(spool: Spool) -> None:
    other = Spool(spool.path.parent, RUN)
    assert not other.abandoned()
    spool.release(remove=False)
    before = spool.path.stat()
    assert other.abandoned()
    assert spool.path.stat() == before
    assert not Spool(spool.path.parent / "absent", RUN).abandoned()


def test_a_damaged_line_is_left_out_and_its_number_said(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    spool.append(*({"op": "note", "n": n} for n in range(3)))
    data = spool.path.read_bytes()
    spool.path.write_bytes(data.replace(b'"n":1', b'"n":8'))
    assert [line["n"] for line in Spool(spool.path.parent, RUN).unsent()[0]] == [0, 2]
    assert f"{spool.path}, line 2 is damaged (its checksum does not fit) and is left out." in caplog.text


@pytest.mark.parametrize("text", ["", "x", "-3", "7", "999999", "12 0", "1" * 5000])
def test_a_damaged_note_of_what_was_sent_costs_a_replay(spool: Spool, text: str) -> None:
    spool.append({"op": "note", "n": 1}, {"op": "note", "n": 2})
    spool.mark_sent(spool.unsent(1)[1])
    assert [line["n"] for line in Spool(spool.path.parent, RUN).unsent()[0]] == [2]
    spool.path.with_suffix(".sent").write_text(text)
    assert [line["n"] for line in Spool(spool.path.parent, RUN).unsent()[0]] == [1, 2]


def test_a_last_line_that_lacks_only_its_end_is_kept(spool: Spool) -> None:
    spool.append({"op": "note", "n": 1}, {"op": "note", "n": 2})
    spool.path.write_bytes(spool.path.read_bytes()[:-1])
    spool.release(remove=False)
    again = Spool(spool.path.parent, RUN)
    again.acquire()
    again.append({"op": "note", "n": 3})
    assert [line["n"] for line in again.unsent()[0]] == [1, 2, 3]


def test_a_full_disk_leaves_whole_lines_and_is_waited_for(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append({"op": "note", "n": 1})
    write, tries = os.write, []

    def full(handle: int, data: bytes) -> int:
        tries.append(handle)
        if len(tries) % 2:
            return write(handle, data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.tracking.spool.FULL_S", 0.05)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(BitfrontError, match="No space left on device; free some space there, then resume the sweep"):
        spool.append({"op": "note", "n": 2})
    assert len(tries) > 2
    monkeypatch.setattr(os, "write", write)
    spool.append({"op": "note", "n": 3})
    assert [line["n"] for line in spool.unsent()[0]] == [1, 3]


def test_a_note_that_cannot_be_written_costs_nothing_while_it_is_held(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append({"op": "note", "n": 1})

    def full(path: Path, text: str) -> None:
        raise InputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("search.tracking.spool.write_text", full)
    spool.mark_sent(spool.unsent()[1])
    assert spool.unsent()[0] == []
