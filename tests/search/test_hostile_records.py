"""Experiments, device files, journals and tags of strangers: our own errors only; a damaged line of a journal is left out."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_models.device import FOLDER
from hw_models.loading import parse_device
from quant_core.util.errors import BitfrontError, InputError
from search.config.experiment import Experiment
from search.config.files import from_data, loads, template
from search.tracking.codec import from_tags, sweep_from_json, to_tags, trial_from_json
from search.tracking.spool import Spool
from tests.hostile import only_ours

RUN = "0123456789abcdef" * 2
DEEP = "[" * 100_000 + "]" * 100_000
NESTED = "x" + ".a" * 5_000 + " = 1"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["tags", "trial", 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
LINES = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")) | JSON.map(lambda value: json.dumps(value).encode())
DEVICE = (FOLDER / "generic-cpu.toml").read_text()
quick = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mutated(text: str, data: st.DataObject) -> str:
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 40)))
    return text[:start] + data.draw(st.text(max_size=20) | st.sampled_from(["1e400", "nan", "-1", NESTED, "[[a]]", '"' * 3])) + text[stop:]


@quick
@given(st.data())
def test_any_experiment(data: st.DataObject) -> None:
    text = mutated(template(), data)
    with only_ours(InputError, 20_000):
        loads(text)


@quick
@given(section=st.sampled_from(list(Experiment.model_fields)), value=JSON)
def test_any_section(section: str, value: Any) -> None:
    base = {"task": {"name": "digits"}, "space": {"weight": "int4", "activation": "float"}, "device": {"name": "counts"}}
    for data in (base | {section: value}, base | {section: {"weight": value, "name": value, "options": value}}):
        with only_ours(InputError, 20_000):
            from_data(data, "it")


@quick
@given(st.data())
def test_any_device_file(data: st.DataObject) -> None:
    text = mutated(DEVICE, data)
    with only_ours(InputError, 20_000):
        parse_device(text)


@pytest.mark.parametrize(
    "text", [f"a = {DEEP}", NESTED, "a = " + "9" * 10_000, "a = 1\n" * 100_000, "\n".join(f"k{n} = 1" for n in range(50_000))]
)
def test_deep_and_large_files_are_refused_shortly(text: str) -> None:
    for read in (loads, parse_device):
        with pytest.raises(InputError) as caught:
            read(text)
        assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("name", [".", "..", "a/b", "a\x1b", "a" * 101])
def test_a_sweep_name_that_is_a_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name"):
        loads(template(), overrides=[f"name={json.dumps(name)}"])


def test_a_sweep_name_may_be_that_of_a_searcher() -> None:
    assert loads(template(), overrides=["name=digits-haq+-1"]).name == "digits-haq+-1"


@quick
@given(JSON)
def test_any_record(value: Any) -> None:
    for read in (sweep_from_json, lambda data: trial_from_json(data, ["a"]), lambda data: from_tags({"k": str(data)}, "k")):
        with only_ours(BitfrontError, 4_000):
            read(value)


@quick
@given(value=JSON, position=st.integers(0, 300), character=st.characters())
def test_any_tag(value: Any, position: int, character: str) -> None:
    tags = to_tags("k", [value, "x" * 9_000])
    first = tags["k"]
    tags["k"] = first[:position] + character + first[position + 1 :]
    with only_ours(BitfrontError, 4_000):
        from_tags(tags, "k")


@quick
@given(
    st.lists(
        st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")) | JSON.map(lambda value: json.dumps(value).encode()), max_size=5
    )
)
def test_a_damaged_journal_keeps_its_sound_lines(tmp_path: Path, damage: list[bytes]) -> None:
    journal = Spool(tmp_path, RUN)
    good = [{"op": "note", "n": n} for n in range(len(damage) + 1)]
    lines = [json.dumps(good[0]).encode()]
    for raw, line in zip(damage, good[1:], strict=True):
        lines += [raw, json.dumps(line).encode()]
    journal.path.write_bytes(b"".join(line + b"\n" for line in lines))
    with only_ours():
        read, end = journal.unsent()
    assert [line for line in read if line in good] == good
    assert end == journal.path.stat().st_size
    assert all(isinstance(line, dict) for line in read)


def test_a_damaged_line_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Spool(tmp_path, RUN)
    bad = [
        '{"op": ',
        DEEP,
        "[1]",
        '{"op": "artifact", "name": "../x"}',
        '{"op": "tags", "tags": {"a": 1}}',
        '{"op": "trial"}',
        '{"op": "status"}',
    ]
    journal.path.write_text("\n".join(['{"op": "note"}', *bad, '{"op": "note"}']) + "\n")
    with caplog.at_level(logging.WARNING):
        assert journal.unsent()[0] == [{"op": "note"}] * 2
        assert journal.unsent()[0] == [{"op": "note"}] * 2
    assert [record.getMessage().partition(", line ")[2].split()[0] for record in caplog.records] == ["2", "3", "4", "5", "6", "7", "8"]
    assert all(str(journal.path) in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("text", ["", "x", "-5", "9" * 5_000, "99999", "\udcff"])
def test_a_damaged_note_of_what_was_sent_costs_a_replay(tmp_path: Path, text: str) -> None:
    journal = Spool(tmp_path, RUN)
    journal.path.write_text('{"op": "note"}\n')
    (tmp_path / f"{RUN}.sent").write_bytes(text.encode(errors="surrogateescape"))
    assert journal.unsent()[0] == [{"op": "note"}]


def test_links_beside_the_journal_are_not_followed(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "journal"
    victim.mkdir()
    (victim / "thesis.tex").write_text("kept")
    (victim / "sent").write_text("kept")
    journal = Spool(folder, RUN)
    journal.acquire()
    journal.files.symlink_to(victim)
    (folder / f"{RUN}.tmp").symlink_to(victim / "sent")
    (folder / f"{RUN}.sent").symlink_to(victim / "sent")
    with pytest.raises(InputError, match="is a link to another folder"):
        journal.keep_file("thesis.tex", b"lost")
    journal.append({"op": "artifact", "name": "thesis.tex"})
    journal.mark_sent(3)
    journal.release(remove=True)
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"thesis.tex": "kept", "sent": "kept"}


def test_a_predictable_name_beside_an_artifact_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    journal = Spool(tmp_path / "journal", RUN)
    journal.acquire()
    journal.files.mkdir()
    (journal.files / "a.json.tmp").symlink_to(victim)
    (journal.files / "a.json").symlink_to(victim)
    journal.keep_file("a.json", b"new")
    assert victim.read_text() == "kept"
    assert (journal.files / "a.json").read_bytes() == b"new"
    journal.release(remove=False)


def test_a_new_store_is_not_made_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.tracking.client import connect

    monkeypatch.chdir(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for name in (".mlflow.db.new", ".mlflow.db.tmp", "mlflow.lock"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(BitfrontError, match=r"cannot write .*mlflow\.lock"):
        connect(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    (tmp_path / "mlflow.lock").unlink()
    connect(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    assert victim.read_text() == "kept"
    assert not (tmp_path / "mlflow.db").is_symlink()
