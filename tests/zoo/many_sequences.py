"""Small networks for sequences, tables and graphs, as people write them, with state, sharing and control flow."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.many_cases import COUNT, Case, images, tokens

VOCABULARY = 32


class LstmTagger(nn.Module):
    """A tagger of packed sequences: scores per token."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(VOCABULARY, 12), nn.LSTM(12, 10, batch_first=True, bidirectional=True)
        self.head = nn.Linear(20, 5)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return self.head(states)  # type: ignore[no-any-return]


class Translator(nn.Module):
    """GRU to GRU with additive attention, decoded step by step."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, width), nn.Embedding(VOCABULARY, width)
        self.encoder, self.cell = nn.GRU(width, width, batch_first=True), nn.GRUCell(2 * width, width)
        self.keys, self.query, self.score = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.source(source))
        keys, state, outputs = self.keys(memory), last[0], []
        for step in range(target.shape[1]):
            weights = self.score(torch.tanh(keys + self.query(state)[:, None])).softmax(dim=1)
            state = self.cell(torch.cat([self.target(target[:, step]), (weights * memory).sum(dim=1)], dim=1), state)
            outputs.append(self.head(state))
        return torch.stack(outputs, dim=1)


class Sequence2Sequence(nn.Module):
    """torch's Transformer with masks; one table for both sides and the head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(16, width) / 8)
        self.body, self.head = nn.Transformer(width, 2, 1, 1, 24, batch_first=True), nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.table.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        embedded = [self.table(part) + self.places[: part.shape[1]] for part in (source, target)]
        return self.head(self.body(*embedded, tgt_mask=mask, tgt_is_causal=True))  # type: ignore[no-any-return]


class Scan(nn.Module):
    """A selective state space as Mamba's, scanned step by step; its matrix A is a parameter that is exponentiated."""

    def __init__(self, width: int = 12, states: int = 4) -> None:
        super().__init__()
        self.inner, self.states = 2 * width, states
        self.table, self.into = nn.Embedding(VOCABULARY, width), nn.Linear(width, 4 * width, bias=False)
        self.conv = nn.Conv1d(self.inner, self.inner, 4, padding=3, groups=self.inner)
        self.select, self.step = nn.Linear(self.inner, 2 * states + 2, bias=False), nn.Linear(2, self.inner)
        self.log_a, self.skip = nn.Parameter(torch.rand(self.inner, states)), nn.Parameter(torch.ones(self.inner))
        self.out, self.head = nn.Linear(self.inner, width, bias=False), nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x, gate = self.into(self.table(tokens)).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., : tokens.shape[1]].transpose(1, 2))
        step, b, c = self.select(x).split([2, self.states, self.states], dim=-1)
        step = F.softplus(self.step(step))
        decay = torch.exp(-step[..., None] * self.log_a.exp())
        state, outputs = x.new_zeros(len(x), self.inner, self.states), []
        for t in range(tokens.shape[1]):
            state = decay[:, t] * state + (step[:, t] * x[:, t])[..., None] * b[:, t, None]
            outputs.append((state * c[:, t, None]).sum(dim=-1))
        return self.head(self.out((torch.stack(outputs, dim=1) + self.skip * x) * F.silu(gate)))  # type: ignore[no-any-return]


class Conformer(nn.Module):
    """One block: half a feed-forward, attention, gated convolution, half a feed-forward; over a filter bank."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, 2, 1)
        self.into, self.norms = nn.Linear(16, width), nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
        self.feed = nn.ModuleList([nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, width)) for _ in range(2)])
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.point, self.depth = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.norm, self.last, self.head = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1), nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x[:, None])).permute(0, 2, 1, 3).flatten(2)
        y = self.into(y)
        y = y + 0.5 * self.feed[0](self.norms[0](y))
        z = self.norms[1](y)
        y = y + self.attention(z, z, z, need_weights=False)[0]
        z = self.norm(self.depth(F.glu(self.point(self.norms[2](y).transpose(1, 2)), dim=1)))
        y = y + self.last(F.silu(z)).transpose(1, 2)
        return self.head(y + 0.5 * self.feed[1](self.norms[3](y)))  # type: ignore[no-any-return]


class Shared(nn.Module):
    """As ALBERT: one block, three times over; and one projection inside another path."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.block, self.head = nn.Linear(10, 16), nn.Sequential(nn.Linear(16, 16), nn.GELU()), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)  # type: ignore[no-any-return]


class EarlyExit(nn.Module):
    """Control flow by the data: the second half runs for examples of which the first exit is not sure."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.exit = nn.Sequential(nn.Linear(10, 24), nn.ReLU()), nn.Linear(24, 4)
        self.second, self.head = nn.Sequential(nn.Linear(24, 24), nn.ReLU()), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        scores = self.exit(hidden)
        unsure = scores.softmax(dim=1).amax(dim=1) < 0.45
        if bool(unsure.any()):
            scores = scores.index_copy(0, unsure.nonzero().flatten(), self.head(self.second(hidden[unsure])))
        return scores


class Siamese(nn.Module):
    """One tower for two inputs, given by name; the cosine of the two is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 8))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(self.tower(left), self.tower(right))


class Graph(nn.Module):
    """Graph convolutions over an adjacency matrix that is an input; weights as bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(6, 16) / 3), nn.Parameter(torch.randn(16, 16) / 4)
        self.head = nn.Linear(16, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        mean = edges / edges.sum(dim=-1, keepdim=True).clamp_min(1)
        x = F.relu(torch.matmul(mean, torch.matmul(nodes, self.one)))
        return self.head(torch.einsum("bnm,bmi,io->bno", mean, x, self.two).relu().mean(dim=1))  # type: ignore[no-any-return]


class Ranker(nn.Module):
    """Tables of categories beside numbers, and products of all pairs, as DLRM; inputs as a nested dict."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"user": nn.Embedding(20, 8), "item": nn.Embedding(30, 8)})
        self.dense, self.top = nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Sequential(nn.Linear(8 + 9, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, numbers: Tensor, ids: dict[str, Tensor]) -> Tensor:
        dense = self.dense(numbers)
        parts = torch.stack([dense, *(table(ids[key]) for key, table in self.tables.items())], dim=1)
        return self.top(torch.cat([dense, (parts @ parts.transpose(1, 2)).flatten(1)], dim=1))  # type: ignore[no-any-return]


class Routed(nn.Module):
    """A mixture whose experts are modules, two of four per token; which run depends on the data."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.table, self.router = nn.Embedding(VOCABULARY, width), nn.Linear(width, 4, bias=False)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(width, 20), nn.SiLU(), nn.Linear(20, width)) for _ in range(4)])
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens).flatten(0, 1)
        weights, chosen = self.router(x).softmax(dim=-1).topk(2, dim=-1)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            if len(rows):
                mixed = mixed.index_add(0, rows, weights[rows, places, None] * expert(x[rows]))
        return self.head(x + mixed).view(*tokens.shape, -1)  # type: ignore[no-any-return]


class Hyper(nn.Module):
    """A layer whose weight another layer computes from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.head = nn.Linear(6, 8 * 10), nn.Linear(8, 4)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        weight = self.maker(condition).view(-1, 8, 10) / math.sqrt(10)
        return self.head(torch.bmm(weight, x[..., None]).squeeze(-1).tanh())  # type: ignore[no-any-return]


class Recurrence(nn.Module):
    """An RWKV-like mix of time: decays per channel, states carried in a loop; all layers as linear modules."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.table, self.decay = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(width))
        self.r, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        r, k, v = self.r(x).sigmoid(), self.k(x).clamp(max=8).exp(), self.v(x)
        top = bottom = torch.zeros_like(x[:, 0])
        outputs = []
        for t in range(x.shape[1]):
            decay = torch.exp(-self.decay.exp())
            top, bottom = decay * top + k[:, t] * v[:, t], decay * bottom + k[:, t]
            outputs.append(r[:, t] * top / bottom)
        return self.head(x + self.o(torch.stack(outputs, dim=1)))  # type: ignore[no-any-return]


def lengths() -> tuple[Tensor, Tensor]:
    return tokens()(), torch.randint(2, 9, (COUNT,))


def pair() -> tuple[Tensor, Tensor]:
    return tokens()(), tokens(6)()


SEQUENCES = {
    "lstm tagger, packed": Case(LstmTagger, lengths),
    "gru translator": Case(Translator, pair),
    "transformer, tied": Case(Sequence2Sequence, pair, left=("places",)),
    "state space scan": Case(Scan, tokens(), left=("log_a",), onnx=False),
    "conformer": Case(Conformer, images(12, 8)),
    "shared block": Case(Shared, images(10)),
    "early exit": Case(EarlyExit, images(10)),
    "siamese": Case(Siamese, lambda: {"left": torch.randn(COUNT, 10), "right": torch.randn(COUNT, 10)}, classes=False),
    "graph": Case(Graph, lambda: (torch.randn(COUNT, 5, 6), torch.randint(2, (COUNT, 5, 5)).float())),
    "ranker": Case(
        Ranker,
        lambda: {"numbers": torch.randn(COUNT, 5), "ids": {"user": torch.randint(20, (COUNT,)), "item": torch.randint(30, (COUNT,))}},
    ),
    "routed experts": Case(Routed, tokens()),
    "computed weight": Case(Hyper, lambda: (torch.randn(COUNT, 10), torch.randn(COUNT, 6))),
    "recurrence": Case(Recurrence, tokens()),
}
