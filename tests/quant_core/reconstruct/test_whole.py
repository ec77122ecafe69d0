"""The last stage: its gradients are those of the whole network, codes stay, and it is kept where the outputs come nearer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.blocks import BlockRunner
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct import PART, ReconstructConfig
from quant_core.reconstruct.held import Held, Room
from quant_core.reconstruct.results import Progress, Reconstructed
from quant_core.reconstruct.run import reconstruct
from quant_core.reconstruct.whole import LOOKS, Whole
from quant_core.spec.policy import Policy, parse_layer_policy

FAST = ReconstructConfig(steps=1, lr=0.1, step_lr=0.0, loss="mse", batch=16, whole=30, whole_lr=0.01)


class Residual(nn.Module):
    """A residual block between two layers, and a way that depends on values where `turning`."""

    def __init__(self, turning: bool = False) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.turning = turning

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        y = y + F.relu(self.inner(y))
        return self.last(2 * y if self.turning and float(x[0, 0]) > 0.0 else y)


def made(turning: bool = False) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual(turning).eval(), torch.randn(32, 6, generator=generator)


def distance(outputs: Tensor, wanted: Tensor) -> Tensor:
    return (outputs - wanted).square().mean()


def learned(config: ReconstructConfig, model: nn.Module, x: Tensor, **options: Any) -> Reconstructed:
    layers = trace(model, x)
    policy = Policy({layer.name: parse_layer_policy("weight=int3:channel:mse,activation=int4:tensor:mse") for layer in layers})
    return reconstruct(PostTraining(model, layers, [x], x), model, policy, [x], config, distance=distance, **options)


def off(result: Reconstructed, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        parts = x.split(PART)  # what turns is turned by the first example of a part
        return sum(float(distance(result.simulation(part), model(part))) for part in parts) / len(parts)


@pytest.mark.parametrize("turning", [False, True])
def test_outputs_come_nearer_and_codes_stay(turning: bool) -> None:
    model, x = made(turning)
    before, after = (learned(replace(FAST, whole=steps), model, x) for steps in (0, 30))
    assert before.whole is None
    assert after.whole is not None
    assert after.whole.layers == ("first", "inner", "last")
    assert after.whole.cut is not turning
    assert after.whole.end < 0.95 * after.whole.start
    assert off(after, model, x) == pytest.approx(after.whole.end, rel=1e-4)
    assert off(before, model, x) == pytest.approx(after.whole.start, rel=1e-4)
    for name, stored in after.weights.items():
        assert torch.equal(stored.encoded.codes, before.weights[name].encoded.codes)
        assert not torch.equal(stored.encoded.scale, before.weights[name].encoded.scale)
        assert not torch.equal(stored.bias, before.weights[name].bias)
        assert after.inputs[name].static != before.inputs[name].static


def test_what_is_worse_is_not_kept() -> None:
    model, x = made()
    before, after = (learned(replace(FAST, whole=steps, whole_lr=5.0), model, x) for steps in (0, 1))
    assert after.whole is not None
    assert after.whole.end == after.whole.start
    assert off(after, model, x) == off(before, model, x)


def test_the_nearest_on_the_way_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made()
    distances, outputs = iter([1.0, 0.5, 0.2, 0.4, 0.6, 0.2]), []

    def scripted(self: Whole) -> float:
        with torch.no_grad():
            outputs.append(self.outputs(0).clone())
        return next(distances)

    monkeypatch.setattr(Whole, "measure", scripted)
    result = learned(replace(FAST, whole=8, whole_lr=0.1), model, x)
    assert len(outputs) == 2 + LOOKS
    assert torch.allclose(outputs[-1], outputs[2], atol=1e-5), "the second look's"
    assert not torch.allclose(outputs[-1], outputs[4], atol=1e-2)
    assert result.whole is not None
    assert (result.whole.start, result.whole.end) == (1.0, 0.2)


class Language(nn.Module):
    """An embedding whose weight the head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.relu(self.inner(self.embed(tokens))))


def test_the_scales_of_a_tied_weight_are_learned_for_both_layers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokens = Language().eval(), torch.randint(20, (64, 4))
    layers = trace(model, tokens)
    results = []
    for steps in (0, 30):
        policy = Policy({layer.name: parse_layer_policy("weight=int3:channel:mse,activation=float") for layer in layers})
        engine, config = PostTraining(model, layers, [tokens], tokens), replace(FAST, whole=steps)
        results.append(reconstruct(engine, model, policy, [tokens], config, distance=distance))
    before, after = results
    assert after.whole is not None
    assert after.whole.end < after.whole.start
    one, two = (after.weights[name].encoded for name in ("embed", "head"))
    assert torch.equal(one.codes, before.weights["embed"].encoded.codes)
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.scale, two.scale)
    assert not torch.equal(one.scale, before.weights["embed"].encoded.scale)
    weights = [after.simulation.get_submodule(name).get_parameter("weight") for name in ("embed", "head")]
    assert torch.equal(*weights)


def test_it_is_made_once() -> None:
    model, x = made()
    progress, counts = Progress(), []

    def report(done: Progress, _count: int) -> None:
        counts.append(done.whole is not None)

    first = learned(FAST, model, x, progress=progress, report=report)
    assert counts[-2:] == [False, True]
    again = learned(FAST, model, x, progress=Progress.of(progress.state()))
    assert again.whole == first.whole
    assert off(again, model, x) == off(first, model, x)


def test_gradients_of_the_blocks_are_those_of_the_network() -> None:
    model, x = made()
    watched: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    runner, wanted = BlockRunner(model, watched, x, 1), Held(Room(2**20))
    assert len(runner.blocks) > 1
    wanted.add(torch.zeros(32, 5))

    def gradients(run: Callable[[], object]) -> list[Tensor]:
        model.zero_grad(set_to_none=True)
        run()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    by_block = gradients(lambda: Whole(runner, [x], wanted, distance).backward(0, 0.5))
    at_once = gradients(lambda: distance(model(x), wanted[0]).mul(0.5).backward())
    assert len(by_block) == len(at_once) == 6
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(by_block, at_once, strict=True))
