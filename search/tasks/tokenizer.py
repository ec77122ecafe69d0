"""The byte-pair tokenizer of llama2.c: a table of pieces with scores; the best-scored neighbours are joined until none are left."""

import struct
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from quant_core.util.errors import InputError

BOS = 1
_BYTES = 3  # pieces 3 .. 258 are the single bytes


@dataclass(frozen=True)
class Tokenizer:
    """Pieces of text by token id, and the score of joining two neighbours into each."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Piece -> token id; of equal pieces the first."""
        return {piece: token for token, piece in reversed(list(enumerate(self.pieces)))}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without BOS. A space is put before it, as in training; unknown characters become bytes."""
        tokens: list[int] = []
        for character in f" {text}" if text else "":
            raw = character.encode()
            tokens += [self.ids[raw]] if raw in self.ids else [_BYTES + byte for byte in raw]
        while True:
            joined = [self.ids.get(self.pieces[a] + self.pieces[b], -1) for a, b in pairwise(tokens)]
            ranked = [(self.scores[token], -place) for place, token in enumerate(joined) if token >= 0]
            if not ranked:
                return tokens
            place = -max(ranked)[1]
            tokens[place : place + 2] = [joined[place]]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, less every BOS and the space that `encode` puts first."""
        parts = [bytes([token - _BYTES]) if _BYTES <= token < _BYTES + 256 else self.pieces[token] for token in tokens if token != BOS]
        return b"".join(parts).decode(errors="replace").removeprefix(" ")


def read_tokenizer(path: Path, size: int) -> Tokenizer:
    """Read llama2.c's tokenizer file: int32 longest piece, then per token float32 score, int32 length, its bytes; little-endian.

    Args:
        path: of the file.
        size: how many tokens it must hold.

    Raises:
        InputError: the file is cut short or holds another number of tokens.
    """
    content = path.read_bytes()
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    try:
        while at < len(content):
            score, length = struct.unpack_from("<fi", content, at)
            piece = content[at + 8 : at + 8 + length]
            if length < 0 or len(piece) != length:
                raise InputError(f"{path} is cut short or damaged at byte {at}. Get it again.")
            pieces.append(piece)
            scores.append(score)
            at += 8 + length
    except struct.error:
        raise InputError(f"{path} is cut short or damaged at byte {at}. Get it again.") from None
    if len(pieces) != size:
        raise InputError(f"{path} holds {len(pieces)} tokens, expected {size}.")
    return Tokenizer(tuple(pieces), tuple(scores))
