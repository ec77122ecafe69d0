"""Reconstruction of small networks: errors fall, one layer reaches the optimum, passes are linear, what cannot be cut still works."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.codecs.quantize import decode, encode
from quant_core.network.forward import forward
from quant_core.network.trace import trace
from quant_core.ptq.adaround import round_up
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct import ReconstructConfig, learn
from quant_core.reconstruct import run as module_run
from quant_core.reconstruct.results import Progress, Reconstructed, starting_policy
from quant_core.reconstruct.run import reconstruct
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError

FAST = ReconstructConfig(steps=60, lr=0.1, loss="mse", batch=16)
W3A4 = "weight=int3:channel:mse,activation=int4:tensor:mse"
W3A8 = "weight=int3:channel:mse,activation=int8:tensor:mse"


class Residual(nn.Module):
    """A stem with a batch norm, two residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList(nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)]) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for first, second in self.blocks:
            x = F.relu(x + second(F.relu(first(x))))
        return self.head(x.mean(dim=(2, 3)))


class Turning(nn.Module):
    """Takes one of two ways by what the batch holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.second(y if float(x[0, 0]) > 0.5 else 2 * y)


class Language(nn.Module):
    """An embedding that the last layer is tied to, torch's own attention, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Linear(8, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x + self.mlp(x))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        if isinstance(model, Residual):
            model(images()[0])
            for parameter in model.parameters():
                parameter.data *= 2.5 if parameter.dim() > 1 else 1.0
        return model.eval()


def images(count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(16, 3, 6, 6, generator=generator) for _ in range(count)]


def started(model: nn.Module, batches: list[Any], text: str) -> tuple[PostTraining, Policy]:
    layers = trace(model, batches[0])
    return PostTraining(model, layers, batches, batches[0]), Policy({layer.name: parse_layer_policy(text) for layer in layers})


def again(model: nn.Module, batches: list[Any], text: str = W3A4, config: ReconstructConfig = FAST, **options: Any) -> Reconstructed:
    engine, policy = started(model, batches, text)
    return reconstruct(engine, model, policy, batches, config, **options)


def outputs(network: nn.Module, batches: list[Any]) -> Tensor:
    with torch.no_grad():
        return torch.cat([forward(network, batch) for batch in batches])


def codes(result: Reconstructed) -> list[Tensor]:
    return [stored.encoded.codes for stored in result.weights.values()]


@pytest.mark.parametrize("loss", ["mse", "fisher"])
def test_errors_fall_and_no_block_ends_worse(loss: str) -> None:
    model, batches = made(Residual), images()
    engine, policy = started(model, batches, W3A8)
    begun = outputs(engine.apply(starting_policy(policy)), batches)
    config = replace(FAST, steps=100, loss=loss)
    result = reconstruct(engine, model, policy, batches, config, direction=lambda out, source: torch.randn(out.shape, generator=source))
    wanted = outputs(model, batches)
    assert [block.layers for block in result.blocks] == [("stem", "blocks.0.0", "blocks.0.1"), ("blocks.1.0", "blocks.1.1", "head")]
    assert all(block.end <= block.start and block.cut for block in result.blocks)
    assert min(block.end / block.start for block in result.blocks) < (0.95 if loss == "mse" else 0.99)  # processors round otherwise
    if loss == "mse":
        assert (outputs(result.simulation, batches) - wanted).square().mean() < 0.97 * (begun - wanted).square().mean()
    assert result.note == ""
    assert torch.equal(outputs(engine.model, batches[:1]), outputs(engine.restore(), batches[:1]))


def test_a_result_that_is_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = made(Residual), images()
    begun, learns = [], module_run.learn

    def wild(stretch: Any, soft: Any, inputs: Any, network: Any, *rest: Any) -> None:
        begun.append({name: network.weights[name] for name in soft})
        learns(stretch, soft, inputs, network, *rest)

    monkeypatch.setattr(module_run, "learn", wild)
    result = again(model, batches, config=replace(FAST, steps=3, lr=30.0, step_lr=3.0))
    assert all(block.end == block.start for block in result.blocks)
    assert len(begun) == len(result.blocks)
    assert all(result.weights[name] is stored for start in begun for name, stored in start.items())


def test_one_layer_reaches_the_optimum_over_all_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "FEWEST", 17)  # all examples are learned from
    generator = torch.Generator().manual_seed(2)
    batch = torch.randn(64, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    model = nn.Sequential(nn.Linear(8, 3, bias=False)).requires_grad_(False)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(3, 8, generator=generator))
    engine = PostTraining(model, trace(model, batch), [batch], batch, bias_correction=False, scale_correction=False)
    policy = Policy({"0": parse_layer_policy("weight=int3:channel:minmax")})
    config = ReconstructConfig(steps=600, lr=0.05, step_lr=0.0, drop=0.0, loss="mse", batch=64)
    result = reconstruct(engine, model, policy, [batch], config)
    spec = result.start["0"].weight
    encoded, weight = result.weights["0"].encoded, model[0].weight
    step = encoded.scale.expand(3, 8)
    low = ((weight / step).floor()).clamp(-4, 2) * step
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
    moments = batch.T @ batch / 64
    errors = torch.stack([low[row] + choices * step[row] - weight[row] for row in range(3)])
    best = torch.einsum("rck,kl,rcl->rc", errors, moments, errors).amin(dim=1)
    off = decode(encoded, spec, (3, 8)) - weight
    reached = torch.einsum("rk,kl,rl->r", off, moments, off)
    h = round_up((low - weight)[None], step[None].contiguous(), engine._moments("0"))
    off = (low - weight) + h[0] * step
    rounded = torch.einsum("rk,kl,rl->r", off, moments, off)
    assert float(reached.sum()) <= 1.02 * float(best.sum())
    assert float(reached.sum()) <= 1.02 * float(rounded.sum())
    nearest = decode(encode(weight, policy["0"].weight), policy["0"].weight, (3, 8)) - weight
    assert float(reached.sum()) < 0.7 * float(torch.einsum("rk,kl,rl->", nearest, moments, nearest))


def chain(depth: int) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(depth)))


def test_passes_do_not_grow_with_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    calls: Counter[str] = Counter()

    def counted(model: nn.Module, engine: PostTraining, start: Policy) -> Any:
        network = module_run_network(model, engine, start)
        for name, module in network.modules.items():
            module.register_forward_hook(lambda _module, _args, _output, name=name: calls.update([name]))
        return network

    module_run_network = module_run.ReconstructedNetwork
    monkeypatch.setattr(module_run, "ReconstructedNetwork", counted)
    most = []
    for depth in (3, 9):
        calls.clear()
        again(made(lambda depth=depth: chain(depth)), [batch], config=replace(FAST, steps=1, joined=1, batch=4))
        most.append(max(calls.values()))
        assert set(calls.values()) <= {most[-1], most[-1] - 1}
    assert most[0] == most[1]
    # of two parts: two comparisons, float, three quantized, three to begin and one to match again; a record, a deviation, a step, 1 spare
    assert most[0] <= 2 * (2 + 1 + 3 + 4) + 4


def test_what_exceeds_the_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = made(Residual), images(1)
    rooms = []

    class Watched(module_run.Room):
        def __init__(self, limit: int) -> None:
            super().__init__(limit)
            rooms.append(self)

    monkeypatch.setattr(module_run, "Room", Watched)
    results = [again(model, batches, config=replace(FAST, steps=5), room_bytes=limit) for limit in (2**28, 4096, 0)]
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(codes(results[0]), codes(other), strict=True))
    assert [room.least >= 0 for room in rooms] == [True] * 3
    # at most four sets of one block's inputs and outputs: 16 x 8 x 6 x 6 floats are the largest
    assert 2**28 - rooms[0].least <= 4 * 16 * 8 * 6 * 6 * 4


def test_a_network_that_cannot_be_cut_is_reconstructed_layer_by_layer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns, learned = module_run.learn, []
    monkeypatch.setattr(module_run, "learn", lambda *args: (learned.append(1), learns(*args)))
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(16, 8, generator=generator) for _ in range(2)]
    model = made(Turning)
    with caplog.at_level(logging.WARNING):
        result = again(model, batches, "weight=int2:channel:mse,activation=int8:tensor:mse")
    assert "cannot be cut into blocks" in result.note
    assert result.note in caplog.text
    assert [(block.layers, block.cut) for block in result.blocks] == [(("first",), False), (("second",), False)]
    assert all(block.end <= block.start for block in result.blocks)
    assert len(learned) == 2


def test_tied_weights_embeddings_and_parameters_of_other_modules_keep_their_start() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 12, (8, 6), generator=generator) for _ in range(2)]
    model = made(Language)
    engine, policy = started(model, batches, "weight=int4:channel:mse,activation=float")
    result = reconstruct(engine, model, policy, batches, FAST)
    learned = {name for block in result.blocks for name in block.layers}
    assert "mlp" in learned
    assert not {"embed", "head", "attention.in_proj_weight"} & learned
    start = starting_policy(policy)
    for name in set(result.weights) - learned:
        assert torch.equal(result.weights[name].encoded.codes, engine.encoded(name, start[name].weight).codes), name


def test_it_goes_on_where_it_was_interrupted() -> None:
    model, batches = made(Residual), images(1)
    config = replace(FAST, steps=10, joined=1)
    whole = again(model, batches, config=config)
    progress, reports = Progress(), []

    def interrupt(done: Progress, _count: int) -> None:
        if len(done.blocks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(model, batches, config=config, progress=progress, report=interrupt)
    kept = Progress.of(progress.state())
    rest = again(model, batches, config=config, progress=kept, report=lambda done, _count: reports.append(len(done.blocks)))
    assert reports[0] == 2
    assert rest.blocks == whole.blocks
    assert all(torch.equal(a, b) for a, b in zip(codes(rest), codes(whole), strict=True))
    assert torch.equal(outputs(rest.simulation, batches), outputs(whole.simulation, batches))


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    learns, seeds = module_run.learn, []
    monkeypatch.setattr(module_run, "learn", lambda *args: (seeds.append(args[5]), learns(*args)))
    model, batches = made(lambda: chain(3)), [torch.rand(16, 8, generator=torch.Generator().manual_seed(0))]
    config = replace(FAST, steps=20, joined=1)
    first, second, _ = (again(model, batches, W3A8, part) for part in (config, config, replace(config, seed=1)))
    assert first.blocks == second.blocks
    assert all(torch.equal(a, b) for a, b in zip(codes(first), codes(second), strict=True))
    assert seeds[:3] == seeds[3:6]
    assert len({*seeds}) == 6, "of every block its own, and others for another seed"


def test_inputs_steps_are_learned() -> None:
    result = again(made(Residual), images(1), "weight=int4:channel:mse,activation=int3:tensor:mse", replace(FAST, step_lr=0.01))
    engine, policy = started(made(Residual), images(1), "weight=int4:channel:mse,activation=int3:tensor:mse")
    before = {name: engine._quantizer(name, policy[name].activation).static for name in result.inputs}
    changed = [name for name, quantizer in result.inputs.items() if quantizer.static != before[name]]
    assert changed
    assert all(quantizer.static[1:] == before[name][1:] for name, quantizer in result.inputs.items())


def test_what_is_missing_is_said() -> None:
    model, batches = made(Residual), images(1)
    with pytest.raises(InputError, match="loss = 'fisher' given without direction; give it, or loss = 'mse'"):
        again(model, batches, config=ReconstructConfig())
    engine, policy = started(model, batches, W3A4)
    with pytest.raises(InputError, match="the calibration split is empty"):
        reconstruct(engine, model, policy, [], FAST)
    with pytest.raises(InputError, match=r"steps = 0 given; 1 or more is needed; drop = 1.0 given; a probability below 1 is needed"):
        ReconstructConfig(steps=0, drop=1.0)
