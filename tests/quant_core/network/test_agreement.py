"""Layers whose choices must agree: read off small networks of known structure."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.agreement import FUSED, INPUTS, SUMS, agreeing_layers
from quant_core.network.trace import trace


class Block(nn.Module):
    """Attention and a gated feed-forward, with the names of Llama's."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(x, x.shape[-1:])
        x = x + self.o(F.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h)))
        h = F.layer_norm(x, x.shape[-1:])
        return x + self.down(F.silu(self.gate(h)) * self.up(h))  # type: ignore[no-any-return]


class Cross(nn.Module):
    """Two modules whose keys and values are of one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.ModuleDict(self._layers()), nn.ModuleDict(self._layers())

    @staticmethod
    def _layers() -> dict[str, nn.Module]:
        return {name: nn.Linear(8, 8) for name in ("q", "k", "v")}

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        for part in (self.one, self.two):
            x = F.scaled_dot_product_attention(part["q"](x), part["k"](memory), part["v"](memory))
        return x


class Residuals(nn.Module):
    """Two residual blocks and a head; the stem's output is an operand of both sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        x = F.relu(x + self.d(F.relu(self.c(x))))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """One tensor read by two convolutions, one of them behind a ReLU; experts of which one example reaches one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x).mean() * torch.ones(len(x), 2) + self.right(F.relu(x)).mean()


class Routed(nn.Module):
    """Two experts of two layers of one input; which runs depends on the example."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(4, 4), "gate": nn.Linear(4, 4)}) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (x[:, 0] > 0) == bool(number)
            if bool(rows.any()):
                part = x[rows]
                out[rows] = expert["up"](part) * expert["gate"](part)
        return out


def groups(model: nn.Module, inputs: object) -> dict[str, tuple[tuple[str, ...], ...]]:
    model.eval()
    return dict(agreeing_layers(model, trace(model, inputs, [inputs]), inputs))


def test_projections_of_one_tensor_and_one_module_are_fused() -> None:
    model = nn.Sequential(Block(), Block())
    expected = [tuple(f"{n}.{name}" for name in part) for n in (0, 1) for part in (("q", "k", "v"), ("gate", "up"))]
    assert groups(model, torch.randn(4, 5, 8))[FUSED] == tuple(expected)


def test_cross_attention_is_fused_within_a_module_only() -> None:
    fused = groups(Cross(), (torch.randn(2, 5, 8), torch.randn(2, 3, 8)))
    assert fused[FUSED] == (("one.k", "one.v"), ("two.k", "two.v"))
    assert fused[INPUTS] == (("one.k", "one.v", "two.k", "two.v"),)


def test_operands_and_results_of_sums_agree() -> None:
    agreements = groups(Residuals(), torch.randn(2, 3, 6, 6))
    assert agreements[SUMS] == (("a", "c"),)
    assert agreements[INPUTS] == ()


def test_a_relu_keeps_the_format_of_a_tensor() -> None:
    assert groups(Branches(), torch.randn(2, 3, 4, 4))[INPUTS] == (("left", "right"),)


def test_layers_that_the_first_example_does_not_reach_are_tied_too() -> None:
    inputs = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    assert groups(Routed(), inputs)[FUSED] == (("experts.1.up", "experts.1.gate"), ("experts.0.up", "experts.0.gate"))


def test_a_chain_has_nothing_that_must_agree() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert groups(model, torch.randn(2, 4)) == {FUSED: (), INPUTS: (), SUMS: ()}
