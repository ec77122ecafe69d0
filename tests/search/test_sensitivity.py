"""One-layer-out sensitivities: equal to the definition, measured once, kept on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.ptq import PostTraining
from quant_core.spec import parse
from quant_core.trace import trace
from search.sensitivity import Sensitivity
from spaces import rules
from spaces.space import Space


class Net(nn.Module):
    """A convolution, a depthwise one behind a residual addition in place, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.stem(x))
        out += self.deep(out)
        return self.head(out.mean(dim=(2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def parts() -> tuple[PostTraining, Space, list[Tensor]]:
    torch.manual_seed(0)
    model = Net().eval()
    batches = [torch.randn(8, 1, 6, 6), torch.randn(5, 1, 6, 6)]
    layers = trace(model, batches[0])
    choices = {
        "weight": tuple(parse(each) for each in ("int2:channel", "int4:channel", "int8:channel")),
        "activation": tuple(parse(each) for each in ("int3:tensor", "int8:tensor")),
    }
    return PostTraining(model, layers, batches, batches[0]), rules.full(layers, choices), batches


def divergence(engine: PostTraining, space: Space, values: list[int], batches: list[Tensor]) -> float:
    """Return the mean divergence by the definition: every layer computed."""
    total = 0.0
    for inputs in batches:
        target = engine.restore()(inputs).log_softmax(1)
        total += float((target.exp() * (target - engine.apply(space.policy(values))(inputs).log_softmax(1))).sum())
    return total / sum(len(each) for each in batches)


def test_the_layers_before_a_change_are_reused_without_a_trace(parts: tuple[PostTraining, Space, list[Tensor]], tmp_path: Path) -> None:
    engine, space, batches = parts
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFRONT_CACHE", str(tmp_path))
        measured = Sensitivity(engine, space, batches, "key")
        found = measured()
        assert measured.evaluations == 1 + 3 * (2 + 1)
        again = Sensitivity(engine, space, batches, "key")
        assert all(np.array_equal(a, b) for a, b in zip(again(), found, strict=True))
        assert again.evaluations == 0
        other = Sensitivity(engine, space, batches, "another key")
        other()
        assert other.evaluations == measured.evaluations
    widest = [len(each.choices) - 1 for each in space.dimensions]
    base = divergence(engine, space, widest, batches)
    for d, rises in enumerate(found):
        for k, rise in enumerate(rises):
            wanted = divergence(engine, space, [*widest[:d], k, *widest[d + 1 :]], batches) - base
            assert rise == pytest.approx(wanted, abs=1e-9)
    assert max(float(each[0]) for each in found) > 1e-4
