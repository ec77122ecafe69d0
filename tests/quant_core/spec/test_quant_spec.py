import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.spec.formats import CLIPPINGS, FORMATS
from quant_core.spec.quant_spec import QuantSpec, SpecError, legal_scales, make, parse

WRITTEN = [
    "int4:channel:octav",
    "int8:tensor:ema",
    "int4:group128:mse",
    "int4:vector16",
    "int4:vector16:tensor:s6",
    "int8:tensor:affine:fp16",
    "int8:token:dynamic",
    "int3:channel:mse:weighted:gptq",
    "int4:group32:octav:weighted:affine",
    "kmeans3:channel:weighted",
    "nvfp4:mse:weighted",
    "mxint8:mse",
    "mx6",
    "mx9:stochastic",
    "mxfp4",
    "nvfp4",
    "kmeans4:tensor",
    "kmeans3:group8",
    "ternary:twn",
    "ternary:channel:ttq",
    "binary:channel",
    "binary:none",
    "float",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_text_form_is_exact(text: str) -> None:
    assert str(parse(text)) == text


@given(st.data())
def test_every_legal_spec_is_read_back(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FORMATS)))
    info = FORMATS[name]
    granularity = data.draw(st.sampled_from(info.granularities))
    sized = granularity in ("group", "vector")
    scale = data.draw(st.sampled_from(legal_scales(name, granularity) if name != "float" else ("",)))
    affine = info.affine and granularity != "vector" and scale != "e8m0" and data.draw(st.booleans())
    clipping = data.draw(st.sampled_from(info.clippings))
    spec = make(
        name,
        data.draw(st.sampled_from(info.bits)),
        granularity,
        block=data.draw(st.integers(1, 300)) if sized else info.block,
        clipping=clipping,
        weighted=clipping in info.weightable and data.draw(st.booleans()),
        rounding=data.draw(st.sampled_from(info.roundings)),
        scale=scale,
        symmetric=not affine,
        coarse=data.draw(st.sampled_from(["channel", "tensor"])) if granularity == "vector" else "channel",
        dynamic=data.draw(st.booleans()),
    )
    assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("int4:group128", 4.125),
        ("mx9", 9),
        ("mx6", 6),
        ("mx4", 4),
        ("mxfp4", 4.25),
        ("mxfp8", 8.25),
        ("nvfp4", 4.5 + 32 / 2**18),
        ("int4:vector16", 4.25 + 32 / 4096),
        ("int4:channel", 4 + 32 / 4096),
        ("int4:channel:affine", 4 + 36 / 4096),
        ("kmeans4:tensor", 4 + 16 * 32 / 2**18),
        ("kmeans2:group16", 2 + 4 * 4 * 32 / 2**18),
        ("binary:channel", 1 + 32 / 4096),
        ("binary:none", 1),
        ("ternary:twn", 2 + 32 / 2**18),
        ("ternary:ttq", 2 + 64 / 2**18),
        ("float", 32),
    ],
)
def test_bits_per_element_counts_every_bit(text: str, bits: float) -> None:
    assert parse(text).bits_per_element((64, 4096)) == bits


def test_ragged_blocks_and_other_axes_are_counted() -> None:
    assert parse("int4:group128").storage_bits((3, 130)) == 4 * 390 + 3 * 2 * 16
    assert parse("mx6").storage_bits((2, 3, 3, 2)) == 5 * 36 + 2 * (2 * 8 + 9)
    assert parse("int8:channel").storage_bits((5, 7), channel_axis=1) == 8 * 35 + 7 * 32
    assert parse("int8:channel").storage_bits((0, 7)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int0", "0 bits given; int takes 1 to 16"),
        ("int33:tensor", "33 bits given"),
        ("intfour:tensor", "'intfour' is no number format"),
        ("mxpf4", "Did you mean 'mxfp4'"),
        ("int4:chanel", "Did you mean 'channel'"),
        ("int4:group0", "size 0 given"),
        ("mx6:affine", "symmetric only"),
        ("int4:channel:octav:mse", "sets clipping a second time"),
        ("int4:vector16:fp16", "scale 'fp16' given; legal: s4"),
        ("kmeans4:tensor:mse", "'mse' is not allowed after kmeans"),
        ("int4:channel:weighted", "weighted given; int with clipping minmax: legal with clipping percentile, mse, octav"),
        ("nvfp4:weighted", "weighted given; nvfp4 with clipping minmax: legal with clipping mse"),
        ("mx6:mse", "'mse' is not allowed after mx6"),
        ("binary:channel:weighted", "'weighted' is not allowed after binary"),
    ],
)
def test_illegal_texts_are_refused_with_what_is_legal(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(text)


def test_illegal_combination_is_refused_when_built() -> None:
    with pytest.raises(SpecError, match=r"bits 17 given.*clipping 'twn' given"):
        QuantSpec("int", 17, "channel", clipping="twn", scale="fp32")


def test_every_clipping_is_reachable() -> None:
    assert {parse(f"int4:channel:{name}").clipping for name in CLIPPINGS} == set(CLIPPINGS)
