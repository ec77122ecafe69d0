import json
import pickle

import pytest

from quant_core import InputError, LayerPolicy, Policy, parse, parse_layer_policy

POLICY = Policy({"b": LayerPolicy(parse("int4:channel:mse"), parse("int8:tensor:ema")), "a": LayerPolicy(parse("mx6"))})


def test_json_round_trip_keeps_order_identity_and_hash() -> None:
    again = Policy.from_json(json.loads(json.dumps(POLICY.to_json())))
    assert again == POLICY
    assert hash(again) == hash(POLICY)
    assert again.id == POLICY.id
    assert list(again) == ["b", "a"]


def test_id_depends_on_every_spec() -> None:
    other = Policy({**POLICY, "a": LayerPolicy(parse("mx9"))})
    assert other.id != POLICY.id
    assert other != POLICY


def test_the_transform_of_the_network_is_part_of_a_policy() -> None:
    rotated = Policy(POLICY, "rotate")
    assert rotated != POLICY
    assert rotated.id != POLICY.id
    assert Policy.from_json(json.loads(json.dumps(rotated.to_json()))) == rotated
    assert rotated.with_layers({"a": POLICY["a"]}) == Policy({"a": POLICY["a"]}, "rotate")
    assert "transform" not in POLICY.to_json()
    with pytest.raises(InputError, match="unknown network transform 'rotte'; known: none, rotate, smooth"):
        Policy(POLICY, "rotte")
    with pytest.raises(InputError, match="policy transform 3 given; known: none, smooth, rotate"):
        Policy.from_json(POLICY.to_json() | {"transform": 3})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "schema 'list' given"),
        ({"schema": "bitfront.policy/9", "layers": {}}, r"policy/9' given, 'bitfront.policy/1' needed"),
        ({"schema": "bitfront.policy/1", "layers": {}}, "no 'layers' table"),
        ({"schema": "bitfront.policy/1", "layers": {"a": {"weigth": "int4:channel"}}}, "layer 'a'.*'weight' and 'activation' is needed"),
        ({"schema": "bitfront.policy/1", "layers": {"a": {"weight": "int99:channel"}}}, "layer 'a', weight: .*99 bits given"),
    ],
)
def test_wrong_json_is_refused_with_its_place(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Policy.from_json(data)


def test_uniform_text_form() -> None:
    assert parse_layer_policy("weight=int4:channel:mse, activation=int8:tensor:ema") == POLICY["b"]
    assert parse_layer_policy(str(POLICY["a"])) == POLICY["a"]
    with pytest.raises(InputError, match="'wieght=int4:channel'"):
        parse_layer_policy("wieght=int4:channel")
    with pytest.raises(InputError, match="each once"):
        parse_layer_policy("weight=mx6,weight=mx9")


def test_a_pickled_policy_is_hashed_by_the_process_that_reads_it() -> None:
    """Texts hash differently in every process; a hash that travelled would find nothing in a worker's tables."""
    policy = Policy({"fc": LayerPolicy()})
    policy._hash = 1
    assert hash(policy) == 1
    copied = pickle.loads(pickle.dumps(policy))
    assert copied == policy
    assert hash(copied) == hash(Policy({"fc": LayerPolicy()}))
