import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core import InputError, Layer, LayerPolicy, Policy, parse
from spaces import rules
from spaces.space import Space

W = tuple(parse(f"int{bits}:channel") for bits in (2, 4, 8))
A = tuple(parse(f"int{bits}:tensor") for bits in (4, 8))


def layer(name: str, kind: str = "conv", **fields: object) -> Layer:
    return Layer(name, kind, 4, 4, (4, 4, 3, 3), (8, 8), (8, 8), 9216, **fields)  # type: ignore[arg-type]


LAYERS = [layer("stem"), layer("block.0", "depthwise"), layer("block.1"), layer("head", "linear"), layer("unused", calls=0)]


@pytest.fixture
def space() -> Space:
    return rules.full(LAYERS, {"weight": W, "activation": A})


def test_size_and_never_called_layers(space: Space) -> None:
    assert space.size == 6**4
    assert space.policy([0] * 8)["unused"] == LayerPolicy()


@given(st.integers(0, 2**32 - 1))
def test_policy_and_values_are_exact_inverses(seed: int) -> None:
    space = rules.tie(rules.full(LAYERS, {"weight": W, "activation": A}), ["block.0", "head"], "weight")
    values = space.sample(np.random.default_rng(seed))
    assert space.values(space.policy(values)) == values


def test_layer_index_agrees_with_policy(space: Space) -> None:
    rng = np.random.default_rng(0)
    batch = np.array([space.sample(rng) for _ in range(50)])
    index = space.layer_index(batch)
    for row, values in zip(index, batch, strict=True):
        policy = space.policy([int(v) for v in values])
        assert [space.layer_choices[name][i] for name, i in zip(space.base, row, strict=True)] == list(policy.values())


def test_values_out_of_place_are_refused(space: Space) -> None:
    with pytest.raises(InputError, match="8 dimensions"):
        space.policy([0])
    with pytest.raises(InputError, match=r"stem\.weight: choice 3 given; legal: 0 to 2"):
        space.policy([3] + [0] * 7)
    with pytest.raises(InputError, match="for other layers"):
        space.values(Policy({"x": LayerPolicy()}))
    with pytest.raises(InputError, match=r"stem\.weight: mx6 is not a choice here"):
        space.values(Policy({**space.policy([0] * 8), "stem": LayerPolicy(parse("mx6"), A[0])}))
    with pytest.raises(InputError, match=r"layer 'unused'.*fixes or ties"):
        space.values(Policy({**space.policy([0] * 8), "unused": LayerPolicy(W[0])}))


def test_sites_are_the_layers_joined_by_ties(space: Space) -> None:
    assert space.sites == ((0, 1), (2, 3), (4, 5), (6, 7))
    tied = rules.tie(space, ["stem", "head"], "weight")
    names = [tuple(tied.dimensions[d].name for d in site) for site in tied.sites]
    assert ("stem.weight", "stem.activation", "head.activation") in names
    assert sum(len(site) for site in tied.sites) == len(tied.dimensions)


def test_the_transform_is_the_last_dimension_and_costs_nothing(space: Space) -> None:
    wide = rules.transform(space, ["none", "rotate"])
    assert wide.size == 2 * space.size
    assert wide.cardinalities == (*space.cardinalities, 2)
    assert wide.sites == (*space.sites, (8,))
    values = (*[1] * 8, 1)
    assert wide.policy(values).transform == "rotate"
    assert wide.values(wide.policy(values)) == values
    assert dict(wide.policy(values)) == dict(space.policy([1] * 8))
    assert (wide.layer_index(np.array([values])) == space.layer_index(np.array([[1] * 8]))).all()
    assert wide.layerwise.cardinalities == space.cardinalities
    assert rules.uniform(wide) == tuple((*point, k) for k in range(2) for point in rules.uniform(space))


def test_a_single_transform_is_fixed_and_rules_keep_it(space: Space) -> None:
    fixed = rules.fix(rules.transform(space, ["smooth"]), ["stem"], "weight", W[0])
    assert fixed.base.transform == fixed.layerwise.base.transform == "smooth"
    assert len(fixed.cardinalities) == 7
    assert fixed.policy([0] * 7).transform == "smooth"
    assert rules.tie(rules.transform(space, ["none", "rotate"]), ["stem", "head"], "weight").transforms == ("none", "rotate")


def test_the_kv_cache_is_a_dimension_behind_the_transforms(space: Space) -> None:
    kvs = [parse(text) for text in ("float", "int8:token", "int4:group64")]
    wide = rules.kv_cache(rules.transform(space, ["none", "rotate"]), kvs)
    assert wide.cardinalities == (*space.cardinalities, 2, 3)
    assert wide.sites == (*space.sites, (8,), (9,))
    for values in ((*[1] * 8, 1, 2), (*[0] * 8, 0, 1)):
        policy = wide.policy(values)
        assert (policy.transform, policy.kv) == (("none", "rotate")[values[8]], kvs[values[9]])
        assert wide.values(policy) == values
        assert dict(policy) == dict(space.policy(values[:8]))
    assert len(rules.uniform(wide)) == 6 * len(rules.uniform(space))
    assert wide.layerwise.policy([0] * 8).kv.is_float
    alone = rules.fix(rules.kv_cache(space, kvs[1:2]), ["stem"], "weight", W[0])
    assert alone.policy([0] * 7).kv == alone.base.kv == kvs[1]
    assert rules.kv_cache(space, kvs).policy((*[0] * 8, 2)).kv == kvs[2]
    with pytest.raises(InputError, match="kv: choice 3 given; legal: 0 to 2"):
        wide.policy([0] * 9 + [3])
    with pytest.raises(InputError, match="kv: int3:token is not a choice here; legal: float, int8:token, int4:group64"):
        wide.values(Policy(space.policy([0] * 8), "none", parse("int3:token")))
    with pytest.raises(InputError, match=r"kv int8:tensor: a row of a KV cache"):
        rules.kv_cache(space, [parse("int8:tensor")])


def test_transforms_out_of_place_are_refused(space: Space) -> None:
    wide = rules.transform(space, ["none", "rotate"])
    with pytest.raises(InputError, match="network: choice 2 given; legal: 0 to 1"):
        wide.policy([0] * 8 + [2])
    with pytest.raises(InputError, match="network: smooth is not a choice here; legal: none, rotate"):
        wide.values(Policy(space.policy([0] * 8), "smooth"))
    with pytest.raises(InputError, match="9 dimensions"):
        wide.policy([0] * 8)
