"""Where a block begins: outputs match the float network's under quantized layers, GPTQ is for the inputs that those give."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct.begin import begin, match
from quant_core.reconstruct.held import Held, Room
from quant_core.reconstruct.learn import Stretch, judging, learning
from quant_core.reconstruct.results import starting_policy
from quant_core.reconstruct.state import ReconstructedNetwork
from quant_core.spec.policy import Policy, parse_layer_policy

PARTS = 16


def batch() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4 * PARTS, 6, 9, 9, generator=generator)


def depthwise() -> nn.Module:
    """A network whose middle layer is depthwise, with a transposed convolution at the end."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(6, 12, 1), nn.ReLU6(), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU6(inplace=True), nn.Conv2d(12, 4, 1)]
        return nn.Sequential(*layers, nn.ConvTranspose2d(4, 6, 2, groups=2)).eval()


def prepared(text: str, x: Tensor | None = None, **options: Any) -> tuple[ReconstructedNetwork, Stretch, tuple[str, ...]]:
    model, x = depthwise(), batch() if x is None else x
    layers = trace(model, x)
    engine = PostTraining(model, layers, [batch()], x, **options)
    policy = starting_policy(Policy({layer.name: parse_layer_policy(text) for layer in layers}))
    network = ReconstructedNetwork(depthwise().requires_grad_(False), engine, policy)
    parts, wanted = torch.split(x, 4), Held(Room(2**24))
    network.in_float()
    for part in parts:
        wanted.add(network.model(part.clone()))
    stretch = Stretch(lambda index, _: network.model(parts[index].clone()), None, None, wanted)
    return network, stretch, network.learnable([layer.name for layer in layers])


def reached(network: ReconstructedNetwork, stretch: Stretch, names: tuple[str, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    network.quantized()
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        network.modules[name].register_forward_hook(lambda _module, _args, output, name=name: outputs[name].append(output.clone()))
        for name in names
    ]
    for index in range(PARTS):
        stretch.forward(index, None)
    for handle in handles:
        handle.remove()
    rows = {name: torch.cat(parts).double().movedim(1, -1).flatten(0, -2) for name, parts in outputs.items()}
    return {name: (row.mean(dim=0), row.var(dim=0, correction=0)) for name, row in rows.items()}


@pytest.mark.parametrize("text", ["int3:channel:mse", "int3:tensor:mse", "kmeans3:channel", "int4:group4:mse"])
def test_every_layer_has_the_mean_and_deviation_of_the_float_network(text: str) -> None:
    network, stretch, names = prepared(f"weight={text},activation=int4:tensor:mse")
    before = reached(network, stretch, names)
    wanted = begin(stretch, network, names, Room(2**24), range(PARTS))
    after = reached(network, stretch, names)
    for name in names:
        mean, variance = wanted[name]
        deviation = variance.sqrt()
        assert ((after[name][0] - mean).abs() <= 2e-3 * deviation).all(), name
        if "tensor" not in text and name != "5":  # one factor for all channels, or for those that share a row
            assert torch.allclose(after[name][1].sqrt(), deviation, rtol=5e-3), name
    off = [((figures[name][0] - wanted[name][0]).abs() / wanted[name][1].sqrt()).max() for figures in (before, after) for name in names]
    assert max(off[: len(names)]) > 0.02
    assert max(off[len(names) :]) < 0.003


def test_what_the_engine_does_not_correct_stays() -> None:
    network, stretch, names = prepared("weight=int3:channel:mse,activation=float", bias_correction=False, scale_correction=False)
    before = {name: network.weights[name] for name in names}
    channels = {"0": 12, "2": 12, "4": 4, "5": 6}
    ones = {name: (torch.ones(channels[name]), torch.ones(channels[name])) for name in names}
    match(stretch, network, names, ones, range(PARTS))
    assert all(network.weights[name] is before[name] for name in names)


def test_gptq_is_for_the_inputs_that_quantized_layers_give() -> None:
    network, stretch, names = prepared("weight=int2:channel:mse,activation=int4:tensor:mse")
    name = names[2]
    before = network.weights[name].encoded.codes.clone()
    begin(stretch, network, names, Room(2**24), range(PARTS))
    assert not torch.equal(network.weights[name].encoded.codes, before)
    again = network.weights[name].encoded.codes.clone()
    begin(stretch, network, names, Room(2**24), range(PARTS))
    assert torch.equal(network.weights[name].encoded.codes, again), "the same layers before, the same codes"


def test_weights_make_good_what_quantized_inputs_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    network, stretch, names = prepared("weight=int2:channel:mse,activation=float")
    x, float_model, shifts = batch(), depthwise(), dict[str, Tensor]()
    round_for = network.rounded_for

    def watched(name: str, moments: Any, shift: Tensor) -> Any:
        shifts[name] = shift
        return round_for(name, moments, shift)

    monkeypatch.setattr(network, "rounded_for", watched)
    begin(stretch, network, names, Room(2**24), range(PARTS))
    assert shifts["0"].abs().max() < 1e-5, "its inputs lack nothing"
    with torch.no_grad():
        seen, exact = network.model[:4](x.clone()), float_model[:4](x.clone())  # type: ignore[index]
        weight = network.float_weight("4")
        wanted = nn.functional.conv2d(exact, weight)
        left = [wanted - nn.functional.conv2d(seen, weight + change) for change in (torch.zeros(()), shifts["4"][0][:, :, None, None])]
    plain, mended = ((error - error.mean(dim=(0, 2, 3), keepdim=True)).square().mean() for error in left)
    assert mended < 0.999 * plain


@pytest.mark.parametrize("part", [judging(PARTS)[0], learning(PARTS)[0]])
def test_examples_that_judge_do_not_decide_where_a_block_begins(part: int) -> None:
    begun = []
    for factor in (1.0, 3.0):
        x = batch()
        x[4 * part : 4 * (part + 1)] *= factor
        network, stretch, names = prepared("weight=int3:channel:mse,activation=int4:tensor:mse", x)
        wanted = begin(stretch, network, names, Room(2**24), learning(PARTS))
        match(stretch, network, names, wanted, learning(PARTS))
        begun.append([network.weights[name] for name in names])
    alike = [torch.equal(one.encoded.scale, two.encoded.scale) and torch.equal(one.bias, two.bias) for one, two in zip(*begun, strict=True)]
    assert all(alike) if part in judging(PARTS) else not any(alike)


def test_passes_stop_at_the_layer() -> None:
    network, stretch, names = prepared("weight=int3:channel:mse,activation=float")
    counts = dict.fromkeys(names, 0)

    def count(name: str) -> None:
        counts[name] += 1

    for name in names:
        network.modules[name].register_forward_pre_hook(lambda _module, _args, name=name: count(name))
    begin(stretch, network, names, Room(2**24), range(PARTS))
    assert [counts[name] // PARTS for name in names] == [3 * (len(names) - place) for place in range(len(names))]
