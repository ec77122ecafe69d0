"""Blocks of GGUF's types: the gguf library decodes them to the values of the policy, bit for bit."""

import numpy as np
import pytest
import torch

from quant_core.codecs.quantize import decode, encode
from quant_core.export.gguf_file import dequantized
from quant_core.export.gguf_types import kind_of, packed, refusal
from quant_core.spec.quant_spec import parse

TYPES = {
    "int1:group32": "Q4_0",
    "int2:group32": "Q4_0",
    "int3:group64": "Q4_0",
    "int4:group32": "Q4_0",
    "int4:group128:mse": "Q4_0",
    "int4:channel:fp16": "Q4_0",
    "int4:tensor:e8m0": "Q4_0",
    "int5:group32": "Q5_0",
    "int6:group32": "Q8_0",
    "int7:group96": "Q8_0",
    "int8:group32": "Q8_0",
    "int8:channel:fp16": "Q8_0",
    "int2:channel:fp16": "Q2_K",
    "int2:group256:affine": "Q2_K",
    "int3:channel:fp16": "Q3_K",
    "int6:channel:fp16": "Q6_K",
    "int4:channel:affine:fp16": "Q4_K",
    "int5:channel:affine:fp16": "Q5_K",
    "int3:group32:affine": "Q4_0",
    "int4:group32:affine": "Q5_0",
    "int5:group32:affine": "Q8_0",
    "int7:group32:affine": "Q8_0",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "ternary:twn:fp16": "TQ2_0",
    "ternary:channel:opt:fp16": "TQ2_0",
}


@pytest.mark.parametrize("text", TYPES)
def test_the_library_decodes_the_values_of_the_policy(text: str) -> None:
    pytest.importorskip("gguf")
    spec, weight = parse(text), torch.randn(24, 768, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    assert not refusal(spec, 768)
    encoded = encode(weight, spec)
    kind, data = packed(encoded, spec)
    assert kind.name == TYPES[text]
    assert data.shape == (24, 768 // kind.block * kind.size)
    values = dequantized(data, kind.name)
    exact = decode(encoded, spec, (24, 768)).numpy()
    if encoded.coarse is None:
        np.testing.assert_array_equal(values, exact)
    else:  # the scale of the tensor stands beside
        np.testing.assert_allclose(values * encoded.coarse.numpy(), exact, rtol=2.0**-22)


@pytest.mark.parametrize(("text", "name"), [("int4:group32:affine", "Q4_1"), ("int5:group32:affine", "Q5_1")])
def test_minima_that_are_float16_numbers_are_stored_as_minima(text: str, name: str) -> None:
    pytest.importorskip("gguf")
    spec, weight = parse(text), torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    encoded = encode(weight, spec)
    assert encoded.scale is not None
    encoded.scale.copy_(2.0 ** torch.log2(encoded.scale).round())  # a power of two times a zero point is such a number
    kind, data = packed(encoded, spec)
    assert kind.name == name
    np.testing.assert_array_equal(dequantized(data, name), decode(encoded, spec, (4, 64)).numpy())
    rounded, _ = packed(encode(weight, spec), spec, rounded=True)
    assert rounded.name == name


def test_rows_of_no_256_values_take_the_types_of_32() -> None:
    assert [kind_of(parse(text), 96).name for text in ("int2:channel:fp16", "int6:channel:fp16")] == ["Q4_0", "Q8_0"]
    assert kind_of(parse("int2:group128"), 512).name == "Q4_0"


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("int4:channel", 64, "those of int4:channel float32; use int4:channel:fp16, or --round-scales"),
        ("ternary:twn", 256, "use ternary:twn:fp16"),
        ("int8:group32:affine", 64, "no type of 8 bits with a zero point, for int8:group32:affine; use int8:group32"),
        ("int4:group48", 96, "groups of 48 are no multiple of GGUF's blocks of 32; use int4:group32"),
        ("int4:group32", 172, "rows of 172 values are no multiple of GGUF's blocks of 32 for int4:group32; leave the layer in float"),
        ("mxfp4", 80, "rows of 80 values are no multiple"),
        ("nvfp4", 96, "blocks of 64"),
        ("ternary:twn:fp16", 128, "blocks of 256"),
        ("ternary:ttq:fp16", 256, "no type of two levels"),
        ("kmeans4:tensor", 64, "GGUF has no type for kmeans4:tensor; use int4:group32"),
        ("int12:channel:fp16", 64, "no type for int12:channel:fp16"),
        ("int4:vector16", 64, "no type for int4:vector16"),
        ("mx6", 64, "no type for mx6"),
        ("binary:channel", 64, "no type for binary:channel"),
    ],
)
def test_refusals_name_an_alternative(text: str, columns: int, message: str) -> None:
    assert message in refusal(parse(text), columns)


def test_float_is_held_and_rounding_lifts_the_refusal_of_float32_scales() -> None:
    assert not refusal(parse("float"), 7)
    assert not refusal(parse("int4:channel"), 64, rounded=True)
