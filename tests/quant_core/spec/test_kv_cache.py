"""The formats of a KV cache, and its bytes."""

import pickle

import pytest

from quant_core.spec.kv_cache import kv_bytes, require_kv
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, SpecError, parse
from quant_core.util.errors import InputError

LAYERS = {"a": LayerPolicy(parse("int4:channel:mse"))}


@pytest.mark.parametrize("text", ["float", "int8:token", "int4:token:affine", "int4:group64", "int2:group16:mse", "mxfp4", "mx6"])
def test_formats_by_row_are_held(text: str) -> None:
    assert require_kv(parse(text)) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "int8:tensor",
        "int8:tensor:dynamic",
        "int8:channel",
        "nvfp4",
        "kmeans4:tensor",
        "ternary:twn",
        "int4:vector16",
        "int4:token:stochastic",
    ],
)
def test_formats_whose_rows_depend_on_others_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"a row of a KV cache is quantized by itself, to nearest; write intN:token"):
        Policy(LAYERS, kv=parse(text))


def test_bytes_count_scales_of_every_row() -> None:
    heads = ((2, 64), (2, 64))  # keys and values of one layer
    assert kv_bytes(heads, FLOAT) == 4 * 64 * 4
    assert kv_bytes(heads, parse("int8:token")) == 4 * (64 + 4)
    assert kv_bytes(heads, parse("int4:group32")) == 4 * (32 + 2 * 2)
    assert kv_bytes(heads, parse("mxfp4")) == 4 * 64 * 4.25 / 8


def test_the_cache_is_part_of_a_policy_and_policies_without_one_are_as_they_were() -> None:
    plain, cached = Policy(LAYERS), Policy(LAYERS, "rotate", parse("int8:token"))
    assert plain.id == Policy(LAYERS, kv=FLOAT).id == "77601ffafc"
    assert set(plain.to_json()) == {"schema", "layers"}
    assert cached.to_json()["kv"] == "int8:token"
    assert len({plain.id, cached.id, Policy(LAYERS, "rotate").id}) == 3
    for policy in (plain, cached):
        for again in (Policy.from_json(policy.to_json()), pickle.loads(pickle.dumps(policy)), policy.with_layers(LAYERS)):
            assert again == policy
            assert hash(again) == hash(policy)
    assert plain != Policy(LAYERS, kv=parse("int8:token"))
    with pytest.raises(InputError, match="policy: kv int8:tensor: a row of a KV cache"):
        Policy.from_json(plain.to_json() | {"kv": "int8:tensor"})
