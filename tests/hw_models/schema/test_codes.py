import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_models.schema.codes import code_bits, code_of, expand, expand_all, shorten, spec_of
from quant_core.spec.formats import FORMATS
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

CODES = tuple(f"{name}{bits}" if len(entry.bits) > 1 else name for name, entry in FORMATS.items() for bits in entry.bits)


@pytest.mark.parametrize(
    ("text", "code", "bits"),
    [
        ("int4:channel:mse", "int4", 4),
        ("int4:vector16", "int4", 4),
        ("kmeans3:tensor", "kmeans3", 3),
        ("mx6", "mx6", 5),
        ("float", "float", 32),
        ("ternary:twn", "ternary", 2),
        ("binary:channel", "binary", 1),
    ],
)
def test_a_spec_has_the_code_of_its_format_and_free_bits(text: str, code: str, bits: int) -> None:
    assert code_of(parse(text)) == code
    assert code_bits(code) == bits


@given(st.sampled_from(CODES))
def test_spec_of_is_a_right_inverse_of_code_of(code: str) -> None:
    assert code_of(spec_of(code)) == code
    assert code_bits(code) == spec_of(code).bits


@given(st.lists(st.sampled_from(CODES), unique=True))
def test_expand_all_inverts_shorten(codes: list[str]) -> None:
    assert expand_all(shorten(codes).split(", ") if codes else []) == tuple(codes)


def test_a_range_expands_in_order() -> None:
    assert expand("int2-4") == ("int2", "int3", "int4")
    assert expand_all(["int2-3", "int3-4", "binary"]) == ("int2", "int3", "int4", "binary")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int17", r"'int17': illegal bits; int has 1 to 16 bits, as in int1-16"),
        ("int4-2", "illegal bits"),
        ("kmeans9", "kmeans has 1 to 8 bits"),
        ("int", "'int' is no number format; known: float, int1-16"),
        ("mxfp5", "Did you mean 'mxfp4'"),
    ],
)
def test_illegal_codes_say_what_is_legal(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        expand(text)
