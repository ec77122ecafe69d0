"""One-layer-out sensitivities: equal to the definition, measured once, kept on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from search.evaluation.fisher import PASSES
from search.evaluation.sensitivity import Sensitivity
from spaces import rules
from spaces.space import Space


class Net(nn.Module):
    """A convolution, a depthwise one behind a residual addition (in place where nothing is trained), and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.stem(x))
        branch = self.deep(out)
        out = out + branch if torch.is_grad_enabled() else out.add_(branch)
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


def test_one_backward_pass_scores_all_choices(
    parts: tuple[PostTraining, Space, list[Tensor]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    engine, space, _ = parts
    torch.manual_seed(1)
    batches = [torch.randn(256, 1, 6, 6)]
    measured, scored = (Sensitivity(engine, space, batches, method, method) for method in ("forward", "fisher"))
    measured()
    found = scored()
    assert scored.evaluations == PASSES < measured.evaluations
    assert all((np.diff(each) < 0).all() and each[-1] == 0 for each in found)  # fewer bits, more harm
    assert not any(each.requires_grad or each.grad is not None for each in engine.model.parameters())
    inputs = batches[0][:3]
    assert torch.equal(engine.model(inputs), engine.restore()(inputs))


def test_the_score_of_a_linear_network_is_its_fisher_information(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One number per example: the information of a weight is the mean square of its input over the variance of the outputs."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    torch.manual_seed(2)
    model, inputs = nn.Sequential(nn.Linear(6, 1, bias=False)), torch.randn(4000, 6)
    layers = trace(model, inputs)
    choices = {"weight": (parse("int2:tensor"), parse("int8:tensor")), "activation": (parse("int2:tensor"), parse("int8:tensor"))}
    engine = PostTraining(model, layers, [inputs], inputs, bias_correction=False, scale_correction=False)
    space = rules.full(layers, choices)
    found = Sensitivity(engine, space, [inputs], "linear", "fisher")()
    outputs, weight = model(inputs).detach(), model[0].weight.detach()
    variance = float(outputs.var(correction=0))
    rises = []
    for k in range(2):
        error = engine.apply(space.policy([k, 0])).get_submodule("0").get_parameter("weight").detach() - weight
        rises.append(0.5 * float((inputs.square().mean(dim=0) * error.square()).sum()) / variance)
    assert found[0][0] == pytest.approx(rises[0] - rises[1], rel=0.15)
    moved = [engine.quantized_input("0", spec, inputs) - inputs for spec in choices["activation"]]
    rises = [0.5 * float((weight * each).square().sum(dim=1).mean()) / variance for each in moved]
    assert found[1][0] == pytest.approx(rises[0] - rises[1], rel=0.15)
