import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core import FLOAT, InputError, Layer, LayerPolicy, Policy, parse
from spaces import rules
from spaces.space import Dimension, Space

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


def test_fix_restrict_and_tie(space: Space) -> None:
    fixed = rules.fix(space, ["stem"], "weight", W[2])
    assert fixed.size == space.size // 3
    assert fixed.base["stem"].weight == W[2]
    small = rules.restrict(space, rules.match(LAYERS, "kind:depthwise"), "weight", W[1:])
    assert small.size == space.size // 3 * 2
    tied = rules.tie(small, ["block.0", "block.1"], "weight")
    assert tied.size == small.size // 3
    assert next(d for d in tied.dimensions if "block.0" in d.layers).choices == W[1:]
    with pytest.raises(InputError, match="is fixed"):
        rules.tie(fixed, ["stem", "head"], "weight")
    with pytest.raises(InputError, match="none of its choices"):
        rules.restrict(space, ["head"], "weight", [parse("mx6")])
    apart = Space(space.base, (Dimension("weight", ("stem",), W[:2]), Dimension("weight", ("head",), (W[2], FLOAT))))
    with pytest.raises(InputError, match="nothing in common"):
        rules.tie(apart, ["stem", "head"], "weight")


def test_patterns() -> None:
    assert rules.match(LAYERS, "block.*") == ("block.0", "block.1")
    assert rules.match(LAYERS, "first") == ("stem",)
    assert rules.match(LAYERS, "last") == ("head",)
    with pytest.raises(InputError, match=r"'blok.0' matches nothing.*Did you mean 'block.0'"):
        rules.match(LAYERS, "blok.0")


def test_sites_are_the_layers_joined_by_ties(space: Space) -> None:
    assert space.sites == ((0, 1), (2, 3), (4, 5), (6, 7))
    tied = rules.tie(space, ["stem", "head"], "weight")
    names = [tuple(tied.dimensions[d].name for d in site) for site in tied.sites]
    assert ("stem.weight", "stem.activation", "head.activation") in names
    assert sum(len(site) for site in tied.sites) == len(tied.dimensions)


def test_uniform_points_take_every_weight_choice(space: Space) -> None:
    policies = [space.policy(point) for point in rules.uniform(space)]
    assert {policy["stem"].weight for policy in policies} == set(W)
    for policy in policies:
        assert len({policy[name] for name in ("stem", "block.0", "block.1", "head")}) == 1


def test_tied_weights_and_embeddings() -> None:
    layers = [layer("embed", "embedding"), layer("body"), layer("out", "linear", tied_to="embed")]
    space = rules.full(layers, {"weight": W, "activation": A})
    assert [(d.name, d.layers) for d in space.dimensions] == [
        ("embed.weight", ("embed", "out")),
        ("body.weight", ("body",)),
        ("body.activation", ("body",)),
        ("out.activation", ("out",)),
    ]
