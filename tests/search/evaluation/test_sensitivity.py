"""One-layer-out sensitivities: equal to the definition, measured once, kept on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import BitfrontError
from search.evaluation.adaptive import DRAWS, Spent
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
        measured = Sensitivity(engine, space, batches, "key", class_axis=1)
        found = measured()
        assert measured.evaluations == 1 + 3 * (2 + 1)
        again = Sensitivity(engine, space, batches, "key", class_axis=1)
        assert all(np.array_equal(a, b) for a, b in zip(again(), found, strict=True))
        assert again.evaluations == 0
        other = Sensitivity(engine, space, batches, "another key", class_axis=1)
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
    measured, scored = (Sensitivity(engine, space, batches, method, method, class_axis=1) for method in ("forward", "fisher"))
    measured()
    found = scored()
    assert scored.evaluations == PASSES < measured.evaluations
    assert all((np.diff(each) < 0).all() and each[-1] == 0 for each in found)  # fewer bits, more harm
    assert not any(each.requires_grad or each.grad is not None for each in engine.model.parameters())
    inputs = batches[0][:3]
    assert torch.equal(engine.model(inputs), engine.restore()(inputs))


class Twin(Net):
    """The same network, in place nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.stem(x))
        return self.head((out + self.deep(out)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def test_gradients_times_errors_are_near_the_measured_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    torch.manual_seed(1)
    model, batches = Twin().eval(), [torch.randn(64, 1, 6, 6)]
    layers = trace(model, batches[0])
    choices = {"weight": (parse("int4:channel"), parse("int8:channel")), "activation": (parse("int4:tensor"), parse("int8:tensor"))}
    engine, space = PostTraining(model, layers, batches, batches[0]), rules.full(layers, choices)
    measured, scored = (Sensitivity(engine, space, batches, method, method, class_axis=1) for method in ("forward", "gradient"))
    np.testing.assert_allclose(np.array(scored()), np.array(measured()), rtol=0.5, atol=1e-6)
    assert scored.spent.backward_passes == DRAWS * 4
    again = Sensitivity(engine, space, batches, "gradient", "gradient", class_axis=1)
    assert np.array_equal(again(), scored())
    assert again.spent == Spent()


def test_the_score_of_a_linear_network_is_its_fisher_information(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One number per example: the information of a weight is the mean square of its input over the variance of the outputs."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    torch.manual_seed(2)
    model, inputs = nn.Sequential(nn.Linear(6, 1, bias=False)), torch.randn(4000, 6)
    layers = trace(model, inputs)
    choices = {"weight": (parse("int2:tensor"), parse("int8:tensor")), "activation": (parse("int2:tensor"), parse("int8:tensor"))}
    engine = PostTraining(model, layers, [inputs], inputs, bias_correction=False, scale_correction=False)
    space = rules.full(layers, choices)
    found = Sensitivity(engine, space, [inputs], "linear", "fisher", class_axis=1)()
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


def body(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, channels, 3, padding=1)).eval()


class Residual(nn.Module):
    """Every output channel gets the same error, which no softmax over them sees."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift(x)  # type: ignore[no-any-return]


class Sequence(nn.Module):
    """Classes along axis 1 of [N, C, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


def rises(model: nn.Module, inputs: Tensor, class_axis: int | None, folder: Path) -> list[float]:
    layers = trace(model, inputs)
    space = rules.full(layers, {"weight": (parse("int2:channel"), parse("int8:channel")), "activation": (parse("int8:tensor"),)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITFRONT_CACHE", str(folder))
        return [
            float(row.max())
            for row in Sensitivity(PostTraining(model, layers, [inputs], inputs), space, [inputs], "key", class_axis=class_axis)()
        ]


@pytest.mark.parametrize("class_axis", [None, 1])
@pytest.mark.parametrize("model", [body(1), Residual().eval()], ids=["mask", "restoration"])
def test_values_of_any_shape_have_a_relative_error(model: nn.Module, class_axis: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 3, 16, 16)
    if class_axis is None or isinstance(model, nn.Sequential):  # one channel is no softmax
        assert all(rise > 1e-4 for rise in rises(model, inputs, class_axis, tmp_path))


def test_the_relative_error_is_the_squared_error_over_the_variance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Residual().eval(), torch.randn(4, 3, 8, 8)
    layers = trace(model, inputs)
    engine = PostTraining(model, layers, [inputs], inputs)
    space = rules.full(layers, {"weight": (parse("int2:channel"), parse("int8:channel")), "activation": (parse("int8:tensor"),)})
    with torch.inference_mode():
        reference = model(inputs).double()
        errors = [(engine.apply(space.policy([k]))(inputs).double() - reference).square().mean() for k in range(2)]
    expected = float((errors[0] - errors[1]) / (2 * reference.var(correction=0)))
    assert rises(model, inputs, None, tmp_path) == pytest.approx([expected], rel=1e-6)


def test_classes_lie_along_the_axis_that_top_1_uses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Sequence().eval(), torch.randn(4, 3, 12)
    layers = trace(model, inputs)
    engine = PostTraining(model, layers, [inputs], inputs)
    space = rules.full(layers, {"weight": (parse("int2:channel"), parse("int8:channel")), "activation": (parse("int8:tensor"),)})
    target = model(inputs).detach().log_softmax(1)
    outputs = [engine.apply(space.policy([k]))(inputs).detach().log_softmax(1) for k in range(2)]
    losses = [float((target.exp() * (target - log_q)).sum()) / (4 * 12) for log_q in outputs]
    assert rises(model, inputs, 1, tmp_path) == pytest.approx([losses[0] - losses[1]], rel=1e-4)


def test_sensitivities_that_are_all_zero_are_an_error(tmp_path: Path) -> None:
    class Constant(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0

    with pytest.raises(BitfrontError, match="no choice of the space changes the network's outputs"):
        rises(nn.Sequential(Constant(3, 2)).eval(), torch.randn(4, 3), None, tmp_path)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("damage", ["", "[]", '{"rises": [[0, NaN], [0]], "sha256": ""}', "NaN", "shorter", "other"])
def test_a_damaged_file_is_computed_again(damage: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Sequence().eval(), torch.randn(4, 3, 12)
    expected = rises(model, inputs, 1, tmp_path)
    (path,) = tmp_path.rglob("*.json")
    text = path.read_text()
    path.write_text({"shorter": text[:-9], "other": text.replace("0.", "1.", 1)}.get(damage, damage))
    assert rises(model, inputs, 1, tmp_path) == expected
    assert path.read_text() == text
