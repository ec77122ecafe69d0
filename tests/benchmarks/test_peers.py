"""The published rules of bit allocation, on a network whose answers are known."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import Row, table
from benchmarks.peers_rules import RULES, errors, linearity, nearest, reference_of, weighted_error
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from spaces import rules

BITS = (2, 4, 8)


class Half(nn.Module):
    """Two linear layers side by side, of which the outputs read the first one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + 0.0 * self.idle(x)


def test_every_rule_that_looks_at_the_outputs_spares_what_moves_them() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(32, 6)
    layers = trace(Half().eval(), inputs)
    space = rules.full(layers, {"weight": [parse(f"int{bits}:channel") for bits in BITS], "activation": (parse("float"),)})
    engine = PostTraining(Half().eval(), layers, [inputs], inputs)
    reference = reference_of(engine, [inputs], 1)
    for name, rule in RULES.items():
        used, idle = (row - row[-1] for row in rule(engine, space, reference))
        assert (np.diff(used) < 0).all(), f"{name}: more bits lose less"
        if name != "weighted_error":
            np.testing.assert_allclose(idle, 0.0, atol=1e-9, err_msg=name)
    seen = next(error for d, k, _, error in errors(engine, space) if (d, k) == (0, 0))
    expected = float((seen.square() * inputs.square().sum(0)).sum())
    np.testing.assert_allclose(weighted_error(engine, space, reference)[0][0], expected, rtol=1e-5)
    before = engine.restore()(inputs)
    linearity(engine, space, reference)
    assert torch.equal(engine.restore()(inputs), before), "the noise is taken away"


def test_published_rules_see_weights_rounded_to_nearest() -> None:
    choices = {
        "weight": [parse("int2:channel:mse:gptq"), parse("int4:channel:mse")],
        "activation": [parse("int8:tensor"), parse("int4:tensor")],
    }
    space = rules.full(trace(Half().eval(), torch.randn(4, 6)), choices)
    seen = {(dimension.slot, str(choice)) for dimension in nearest(space).dimensions for choice in dimension.choices}
    plain = {("weight", "int2:channel:mse"), ("weight", "int4:channel:mse")}
    assert seen == plain | {("activation", str(choice)) for choice in choices["activation"]}


def test_the_least_divergence_of_a_cell_is_bold() -> None:
    cell = [Row("net", rule, 4.0, 3.9, "accuracy", 0.9, 0.3, kld, 1.0) for rule, kld in (("a", 0.002), ("b", 0.001))]
    lines = table(cell).splitlines()
    assert lines[2] == "| net | 4 | a | 3.90 | accuracy 0.9000 | 0.3000 | 2.00 | 1 |"
    assert lines[3] == "| net | 4 | b | 3.90 | accuracy 0.9000 | 0.3000 | **1.00** | 1 |"
