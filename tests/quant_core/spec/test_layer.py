import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.spec.layer import KINDS, Layer, layers_from_json, layers_to_json
from quant_core.util.errors import InputError

SIZES = st.lists(st.integers(0, 99), max_size=3).map(tuple)
COUNTS = st.integers(0, 10**9)
LAYERS = st.builds(
    Layer,
    name=st.text(min_size=1),
    kind=st.sampled_from(KINDS),
    in_channels=COUNTS,
    out_channels=COUNTS,
    weight_shape=SIZES,
    in_size=SIZES,
    out_size=SIZES,
    macs=COUNTS,
    kernel=SIZES,
    stride=SIZES,
    dilation=SIZES,
    groups=COUNTS,
    channel_axis=st.integers(0, 1),
    bias=st.booleans(),
    calls=st.integers(0, 3),
    live_elements=COUNTS,
    tied_to=st.text(max_size=3),
)
LINEAR = Layer("fc", "linear", 8, 4, (4, 8), (1,), (1,), 32, bias=True)


@given(st.lists(LAYERS, min_size=1, max_size=3))
def test_layers_survive_json(layers: list[Layer]) -> None:
    assert layers_from_json(json.loads(json.dumps(layers_to_json(layers)))) == tuple(layers)


def test_defaults_are_left_out() -> None:
    (plain,) = layers_to_json([LINEAR])
    assert plain == {
        "name": "fc",
        "kind": "linear",
        "in_channels": 8,
        "out_channels": 4,
        "weight_shape": [4, 8],
        "in_size": [1],
        "out_size": [1],
        "macs": 32,
        "bias": True,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pool"}, r"layer 'fc', kind: 'pool' given; legal: linear, conv"),
        ({"macs": -1}, r"layer 'fc', macs: -1 given; a whole number from 0 is needed"),
        ({"macs": True}, r"layer 'fc', macs: True given"),
        ({"in_size": 1}, r"layer 'fc', in_size: 1 given; a list of whole numbers from 0 is needed"),
        ({"bias": 1}, r"layer 'fc', bias: 1 given; true or false is needed"),
        ({"name": 3}, r"layer 3, name: 3 given; a text is needed"),
        ({"strides": [1]}, r"layer 'fc': unknown fields: strides; missing fields: none"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layers_from_json([layers_to_json([LINEAR])[0] | change])


def test_what_is_no_list_of_layers_is_refused() -> None:
    with pytest.raises(InputError, match="a list of layers is needed; dict given"):
        layers_from_json({})
    with pytest.raises(InputError, match="layer 0: 3 given; a table with name"):
        layers_from_json([3])
    with pytest.raises(InputError, match=r"layer 0: unknown fields: none; missing fields: name, kind, in_channels"):
        layers_from_json([{}])
