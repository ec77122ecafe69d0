"""A weight that an embedding and a head share is rounded for the head's inputs, and stored once."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.tied import readers, tied_layers
from quant_core.spec.policy import Policy, parse_layer_policy


class Language(nn.Module):
    """An embedding, a linear layer, and heads that share its weight."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.embed, self.inner = nn.Embedding(40, 16), nn.Linear(16, 16)
        self.heads = nn.ModuleList(nn.Linear(16, 40, bias=False) for _ in range(heads))
        for head in self.heads:
            head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.inner(self.embed(tokens)))
        return torch.stack([head(x) for head in self.heads]).sum(dim=0)


def made(heads: int) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Language(heads).eval(), torch.randint(40, (64, 6), generator=generator)


@pytest.mark.parametrize(
    "text", ["int3:channel:mse:gptq", "int3:channel:mse:weighted", "int3:channel:mse:weighted:gptq", "int3:group8:mse:adaround"]
)
def test_the_head_decides(text: str) -> None:
    model, tokens = made(1)
    layers = trace(model, tokens)
    engine = PostTraining(model, layers, [tokens], tokens, bias_correction=False)

    def error(weight: str) -> Tensor:
        choice = {"inner": "weight=float,activation=float"}
        policy = Policy({layer.name: parse_layer_policy(choice.get(layer.name, f"weight={weight},activation=float")) for layer in layers})
        network = engine.apply(policy)
        embed, head = (network.get_submodule(name).get_parameter("weight") for name in ("embed", "heads.0"))
        assert torch.equal(embed, head)
        x = torch.tanh(model.inner(model.embed(tokens)))  # type: ignore[operator]
        return (x @ (head - model.embed.weight).T).square().mean().detach()  # type: ignore[operator]

    nearest = text.replace(":weighted", "").replace(":gptq", "").replace(":adaround", "")
    assert error(text) < (0.97 if text.endswith("weighted") else 0.8) * error(nearest)
    assert engine.calibration_passes == 2


def test_where_several_layers_multiply_inputs_none_decides() -> None:
    model, tokens = made(2)
    layers = trace(model, tokens)
    assert tied_layers(layers) == {"embed", "heads.0", "heads.1"}
    assert readers(layers, ["inner", "heads.0", "heads.1"]) == {"inner": "inner"}
    assert readers(layers, ["inner", "heads.1"]) == {"inner": "inner", "embed": "heads.1", "heads.0": "heads.1", "heads.1": "heads.1"}
    engine = PostTraining(model, layers, [tokens], tokens)
    spec = parse_layer_policy("weight=int3:channel:mse:gptq,activation=float").weight
    plain = parse_layer_policy("weight=int3:channel:mse,activation=float").weight
    assert torch.equal(engine.encoded("heads.0", spec).codes, engine.encoded("heads.0", plain).codes)
