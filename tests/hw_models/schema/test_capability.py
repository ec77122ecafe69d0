import pytest

from hw_models.loading import parse_device
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse

CONV = Layer("a", "conv", 4, 8, (8, 4, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 4 * 9, (3, 3), (1, 1), (1, 1))
DEPTHWISE = Layer("d", "depthwise", 8, 8, (8, 1, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 9, (3, 3), (1, 1), (1, 1), groups=8)


def choice(weight: str, activation: str) -> LayerPolicy:
    return LayerPolicy(parse(weight), parse(activation))


@pytest.mark.parametrize(
    ("layer", "policy", "runs_as"),
    [
        (CONV, choice("int4:channel", "int8"), ("int4", "int8")),
        (CONV, choice("int3:channel", "int8"), ("int4", "int8")),
        (CONV, choice("int6:group32", "int4"), ("int8", "int4")),
        (CONV, choice("int4:channel:affine", "int8"), None),
        (CONV, choice("int1:channel", "int8"), None),
        (CONV, choice("int9:channel", "int8"), None),
        (CONV, choice("float", "int8"), None),
        (CONV, choice("kmeans4", "int8"), None),
        (CONV, choice("int4:channel", "int3"), None),
        (DEPTHWISE, choice("int8:channel", "int4"), ("int8", "int8")),
        (DEPTHWISE, choice("int4:channel", "int8"), None),
    ],
)
def test_legal_says_what_runs_and_as_what(toy: str, layer: Layer, policy: LayerPolicy, runs_as: tuple[str, str] | None) -> None:
    legal = parse_device(toy).legal(layer)
    assert legal.run_as(policy) == runs_as
    assert legal.allows(policy) == (runs_as is not None)
