"""Networks of the zoo that hold state, write into their inputs, return own classes, or whose weights something else than a layer makes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

from tests.zoo.many_cases import COUNT, Case, images, tokens


class Counting(nn.Module):
    """Buffers that every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 16), nn.Linear(16, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        self.calls += 1  # type: ignore[operator]
        self.mean.mul_(0.9).add_(0.1 * hidden.mean(dim=0))  # type: ignore[operator]
        return self.last(hidden)


@dataclass
class Scored:
    """What a network returns."""

    names: list[str]
    hidden: Tensor
    scores: Tensor


class Returning(nn.Module):
    """A dataclass with lists of texts in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Scored:
        hidden = torch.relu(self.first(x))
        return Scored(["a"], hidden, self.last(hidden))


class Writing(nn.Module):
    """Writes into its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5).add_(0.1)
        return self.last(torch.relu_(self.first(x)))


class Symmetric(nn.Module):
    """A parametrization of one's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.tril() + weight.tril(-1).transpose(-1, -2)


class Computed(nn.Module):
    """An orthogonal, a normed, a symmetric and a pruned weight; the pruned one keeps the graph that it was computed by."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.wave = parametrizations.orthogonal(nn.Linear(10, 16)), parametrizations.weight_norm(nn.Conv1d(1, 4, 3, padding=1))
        self.even, self.last = nn.Linear(16, 16), nn.Linear(64, 4)
        parametrize.register_parametrization(self.even, "weight", Symmetric())
        prune.l1_unstructured(self.last, "weight", 0.5)
        prune.random_structured(self.last, "weight", 0.2, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.even(torch.relu(self.turn(x))))
        return self.last(torch.relu(self.wave(x[:, None])).flatten(1))


class Points(nn.Module):
    """PointNet: a transform of the points, one encoder for the points before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 1))
        self.turn, self.head = nn.Linear(24, 9), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn(self.encode(x).amax(dim=2)).view(-1, 3, 3) + torch.eye(3)
        return self.head(self.encode(turn @ x).amax(dim=2))


class Heads(nn.Module):
    """Attention by products of three axes; parameters in a dict and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 16)
        self.into = nn.ParameterDict({key: torch.randn(2, 16, 8) / 4 for key in "qkv"})
        self.out, self.rest = nn.Parameter(torch.randn(2, 8, 16) / 4), nn.ParameterList([torch.randn(16, 16) / 4, torch.randn(16, 4) / 4])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        query, key, value = (torch.einsum("btc,hcd->bhtd", x, self.into[name]) for name in "qkv")
        x = x + torch.einsum("bhtd,hdc->btc", functional.scaled_dot_product_attention(query, key, value), self.out)
        return torch.tanh(x @ self.rest[0]) @ self.rest[1]


class Capsules(nn.Module):
    """A weight of four axes, and routing by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight = nn.Conv2d(3, 8, 3, 2), nn.Parameter(torch.randn(18, 5, 6, 4) / 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.stem(x).flatten(2).transpose(1, 2).reshape(x.shape[0], -1, 4)
        votes = torch.einsum("nodc,bnc->bnod", self.weight, parts)
        shares = votes.new_zeros(votes.shape[:3])
        for _ in range(2):
            total = (shares.softmax(2)[..., None] * votes).sum(1)
            made = total * total.norm(dim=-1, keepdim=True) / (1 + total.square().sum(-1, keepdim=True))
            shares = shares + (votes * made[:, None]).sum(-1)
        return made.norm(dim=-1)


class Projected(nn.Module):
    """Packed sequences through two layers of projected states in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(32, 12), nn.Linear(12, 5)
        self.body = nn.LSTM(12, 16, 2, bidirectional=True, proj_size=6, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.body(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return self.head(states)


class Across(nn.Module):
    """Attention over keys and values of other widths, sequences first, with a learned key and value more."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        self.attention = nn.MultiheadAttention(16, 2, kdim=6, vdim=10, add_bias_kv=True, add_zero_attn=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = (part.transpose(0, 1) for part in (self.query(query), key, value))
        return self.head(self.attention(*parts, average_attn_weights=False)[0].mean(dim=0))


class Branching(nn.Module):
    """Axes counted from the back, and a branch that no batch reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.never = nn.Conv2d(3, 8, 1), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x).permute(0, -2, -1, 1)).unfold(-2, 2, 2).amax(dim=-1).mean(dim=(1, 2))
        return self.never(x) if x.shape[0] > 1000 else self.last(x)


def compiled() -> nn.Module:
    body: nn.Module = torch.compile(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4)), backend="eager")  # type: ignore[assignment]
    return body


def three() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(COUNT, 5, 8), torch.randn(COUNT, 7, 6), torch.randn(COUNT, 7, 10)


FURTHER = {
    "state in buffers": Case(Counting, images(10)),
    "dataclass": Case(Returning, images(10), "scores"),
    "writes into its inputs": Case(Writing, images(10)),
    "computed and pruned": Case(Computed, images(10)),
    "points": Case(Points, images(3, 20)),
    "heads of three axes": Case(Heads, tokens()),
    "capsules": Case(Capsules, images(3, 7, 7)),
    "projected, packed": Case(Projected, lambda: (tokens()(), torch.randint(2, 9, (COUNT,))), onnx=False),
    "attention across": Case(Across, three, left=("*bias_k", "*bias_v")),
    "axes from the back": Case(Branching, images(3, 6, 6), left=("never.weight",)),
    "compiled": Case(compiled, images(10)),
}
