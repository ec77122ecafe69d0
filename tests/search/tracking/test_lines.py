"""Lines of the journal: damage is told by the checksum, older lines are still read, and what stands whole is kept."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.tracking.lines import decode, encode, note, noted, salvaged

LINES = [{"op": "note", "n": n, "text": 'a "crc" {}'} for n in range(3)]
RUN = "0123456789abcdef" * 2


def test_a_line_comes_back_as_it_was_and_can_be_read_by_older_versions() -> None:
    raw = encode(LINES[0])
    assert decode(raw) == LINES[0]
    assert {key: value for key, value in json.loads(raw).items() if key != "crc"} == LINES[0]
    assert decode(json.dumps(LINES[1]).encode() + b"\n") == LINES[1]


@given(st.integers(0), st.integers(1, 255))
def test_no_changed_byte_gives_another_record(place: int, change: int) -> None:
    raw = bytearray(encode(LINES[0])[:-1])
    raw[place % len(raw)] ^= change
    try:
        line = decode(bytes(raw))
    except ValueError:
        return
    assert {key: value for key, value in line.items() if key in LINES[0]} == LINES[0]  # the name of the checksum was hit


def test_two_lines_without_an_end_between_them_are_both_read() -> None:
    raw = encode(LINES[0])[:-1] + b"\x0b" + encode(LINES[1])[:-1] + encode(LINES[2])
    with pytest.raises(ValueError, match="its checksum does not fit"):
        decode(raw)
    assert list(salvaged(raw)) == LINES
    broken = raw.replace(b'"n":1', b'"n":7')
    assert list(salvaged(broken)) == [LINES[0], LINES[2]]


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"3\n", b"{}{}", b"\x00" * 40, b"[" * 100_000, b'{"op":"trial","trial":3}\n', b'{"op":"status"}']
)
def test_what_is_no_record_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(raw)
    assert list(salvaged(raw)) == []


def test_a_note_has_a_checksum_too() -> None:
    assert noted(RUN, note(RUN, 1234)) == 1234
    assert noted(RUN, "1234") == 1234
    for text in ("", "x", "12 34 56", note(RUN, 1234).replace("1234", "1235"), note("f" * 32, 1234)):
        with pytest.raises(ValueError, match=r"\w"):
            noted(RUN, text)
