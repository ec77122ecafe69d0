import pytest

from quant_core import FLOAT, InputError, Layer, parse
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
