"""Codes: the short names by which device files say how one tensor element is stored (`int4`, `kmeans3`, `mxfp4`, `float`)."""

import re
from collections.abc import Iterable

from quant_core.spec.formats import FORMATS
from quant_core.spec.quant_spec import QuantSpec, make
from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import given, listed

_RANGE = re.compile(r"(int|kmeans)(\d{1,9})(?:-(\d{1,9}))?")


def code_of(spec: QuantSpec) -> str:
    """Return the code of a spec: its format, and its bits where the format leaves them free."""
    return spec.format if len(FORMATS[spec.format].bits) == 1 else f"{spec.format}{spec.bits}"


def code_bits(code: str) -> int:
    """Return the bits of one stored element of `code` (metadata not counted)."""
    numbered = _RANGE.fullmatch(code)
    return int(numbered[2]) if numbered else FORMATS[code].bits[0]


def spec_of(code: str) -> QuantSpec:
    """Return the plainest spec that has `code`: the default of its format."""
    numbered = _RANGE.fullmatch(code)
    return make(numbered[1], int(numbered[2])) if numbered else make(code)


def expand(text: str) -> tuple[str, ...]:
    """Turn one entry of a device file into codes: `int2-4` is int2, int3, int4.

    Raises:
        InputError: no such format, or bits that the format does not have.
    """
    numbered = _RANGE.fullmatch(text)
    if numbered:
        name, low, high = numbered[1], int(numbered[2]), int(numbered[3] or numbered[2])
        legal = FORMATS[name].bits
        if low not in legal or high not in legal or low > high:
            raise InputError(f"{text!r}: illegal bits; {name} has {legal[0]} to {legal[-1]} bits, as in {name}{legal[0]}-{legal[-1]}.")
        return tuple(f"{name}{bits}" for bits in range(low, high + 1))
    if text not in FORMATS or len(FORMATS[text].bits) > 1:
        names = [name if len(entry.bits) == 1 else f"{name}{entry.bits[0]}-{entry.bits[-1]}" for name, entry in FORMATS.items()]
        raise InputError(f"{given(text)} is no number format; known: {listed(names, 40)}.{suggest(text, names)}")
    return (text,)


def expand_all(texts: Iterable[str]) -> tuple[str, ...]:
    """Expand every entry, in order, each code once."""
    return tuple(dict.fromkeys(code for text in texts for code in expand(text)))


def shorten(codes: Iterable[str]) -> str:
    """Return codes in words, runs of bits joined: `int2-4, ternary`; the inverse of `expand_all`."""
    runs: list[tuple[str, int, int]] = []
    for code in codes:
        numbered = _RANGE.fullmatch(code)
        name, bits = (numbered[1], int(numbered[2])) if numbered else (code, -1)
        if runs and numbered and runs[-1][0] == name and runs[-1][2] == bits - 1:
            runs[-1] = (name, runs[-1][1], bits)
        else:
            runs.append((name, bits, bits))
    return ", ".join(name if low < 0 else f"{name}{low}" if low == high else f"{name}{low}-{high}" for name, low, high in runs)
