"""The byte-pair tokenizer of llama2.c."""

import struct
from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search.tasks.tokenizer import BOS, Tokenizer, read_tokenizer


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "stories260k"


@pytest.mark.parametrize("text", ["Once upon a time, there was a girl.", "Zoë said: “Hi!” 😀\n", "", " a  b ", "x"])
def test_tokenizer_gives_the_text_back(folder: Path, text: str) -> None:
    tokenizer = read_tokenizer(folder / "tok512.bin", 512)
    assert tokenizer.decode([BOS, *tokenizer.encode(text)]) == text


def test_best_scored_neighbours_are_joined_first() -> None:
    pieces = (b"?", b"<s>", b"</s>", *(bytes([i]) for i in range(256)), b" ", b"ab", b"bb")
    ab, bb = 260, 261
    a, b = pieces.index(b"a"), pieces.index(b"b")
    zeros = (0.0,) * 260
    assert Tokenizer(pieces, (*zeros, -1.0, -2.0)).encode("abb") == [pieces.index(b" "), ab, b]
    assert Tokenizer(pieces, (*zeros, -2.0, -1.0)).encode("abb") == [pieces.index(b" "), a, bb]
    assert Tokenizer(pieces, (*zeros, -1.0, -1.0)).encode("bbb") == [pieces.index(b" "), bb, b], "of equals the first"


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tok.bin"
    path.write_bytes(struct.pack("<i", 1) + struct.pack("<fi", 0.0, 1) + b"a")
    assert read_tokenizer(path, 1).pieces == (b"a",)
    with pytest.raises(InputError, match="holds 1 tokens, expected 2"):
        read_tokenizer(path, 2)
    path.write_bytes(path.read_bytes() + struct.pack("<fi", 0.0, 3) + b"bc")
    with pytest.raises(InputError, match="is cut short or damaged at byte 13"):
        read_tokenizer(path, 2)
    path.write_bytes(path.read_bytes()[:16])
    with pytest.raises(InputError, match="is cut short or damaged at byte 13"):
        read_tokenizer(path, 2)
