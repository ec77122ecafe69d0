"""Tiny networks whose weights are no `weight` of a Linear or Conv layer: recurrent, attention, bilinear, bags, experts, own parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

COUNT, VOCABULARY, LENGTH = 64, 24, 6
Made = tuple[nn.Module, Any]


class Tagger(nn.Module):
    """Tokens in, classes of the whole sequence out, by a recurrent module."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(VOCABULARY, 16), kind(16, 20, batch_first=True, **options)
        width = (options.get("proj_size") or 20) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.table(tokens))[0].mean(dim=1))  # type: ignore[no-any-return]


class Stepwise(nn.Module):
    """A cell called once per token."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(VOCABULARY, 16), kind(16, 20), nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        state: Any = None
        for x in self.table(tokens).unbind(dim=1):
            state = self.cell(x, state)
        return self.head(state[0] if isinstance(state, tuple) else state)  # type: ignore[no-any-return]


class Attending(nn.Module):
    """Self-attention, or attention over another sequence with widths of its own."""

    def __init__(self, *, across: bool) -> None:
        super().__init__()
        self.across = across
        self.table, self.other = nn.Embedding(VOCABULARY, 16), nn.Embedding(VOCABULARY, 12) if across else nn.Identity()
        sizes = {"kdim": 12, "vdim": 12} if across else {}
        self.attention, self.head = nn.MultiheadAttention(16, 4, batch_first=True, **sizes), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        keys = self.other(tokens.flip(1)) if self.across else x
        return self.head(self.attention(x, keys, keys)[0].mean(dim=1))  # type: ignore[no-any-return]


class Paired(nn.Module):
    """A bilinear module over two halves of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair, self.head = nn.Linear(8, 8), nn.Bilinear(8, 8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pair(self.first(x), x)))  # type: ignore[no-any-return]


class Bags(nn.Module):
    """A bag of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(VOCABULARY, 16), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bag(tokens))  # type: ignore[no-any-return]


class Experts(nn.Module):
    """Experts as two stacks of matrices, one applied to columns and one to rows, chosen by the largest score; one router."""

    def __init__(self, count: int = 4, width: int = 16, hidden: int = 12) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(width, count))
        self.up = nn.Parameter(torch.randn(count, hidden, width) / 4)
        self.down = nn.Parameter(torch.randn(count, hidden, width) / 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = (x @ self.router).argmax(dim=-1)
        outputs = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            rows = chosen == expert
            outputs[rows] = torch.relu(nn.functional.linear(x[rows], self.up[expert])) @ self.down[expert]
        return outputs


class OwnWeights(nn.Module):
    """Own parameters: a projection, a position table that is added, experts."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(VOCABULARY, 16), nn.Parameter(torch.randn(1, LENGTH, 16) / 8)
        self.projection, self.experts, self.head = nn.Parameter(torch.randn(16, 16) / 4), Experts(), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = (self.table(tokens) + self.positions) @ self.projection
        return self.head(self.experts(x.flatten(0, 1)).view_as(x).mean(dim=1))  # type: ignore[no-any-return]


class Last(nn.Module):
    """A transformers model's outputs at the last position."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(input_ids=tokens).logits[:, -1]  # type: ignore[no-any-return]


def mixture(kind: str, **sizes: int) -> nn.Module:
    """Return a tiny causal language model with experts, of transformers."""
    import transformers

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24}
    config = getattr(transformers, f"{kind}Config")(vocab_size=VOCABULARY, **heads, **sizes)
    return Last(getattr(transformers, f"{kind}ForCausalLM")(config))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(
        nn.Embedding(VOCABULARY, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(16 * LENGTH, 5)
    )


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Tagger(nn.LSTM),
    "lstm, two layers, both directions": lambda: Tagger(nn.LSTM, num_layers=2, bidirectional=True),
    "lstm, projected": lambda: Tagger(nn.LSTM, proj_size=10),
    "gru": lambda: Tagger(nn.GRU),
    "rnn": lambda: Tagger(nn.RNN),
    "lstm cell": lambda: Stepwise(nn.LSTMCell),
    "gru cell": lambda: Stepwise(nn.GRUCell),
    "attention": lambda: Attending(across=False),
    "cross-attention": lambda: Attending(across=True),
    "encoder": encoder,
    "bilinear": Paired,
    "bag": Bags,
    "own weights": OwnWeights,
    "mixtral": lambda: mixture("Mixtral", num_local_experts=4),
    "qwen3 moe": lambda: mixture("Qwen3Moe", moe_intermediate_size=12, num_experts=4, num_experts_per_tok=2),
}
SLOW = ("mixtral", "qwen3 moe")


def made(name: str) -> Made:
    """Return a network in eval mode and its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MAKERS[name]().eval()
        return model, torch.randn(COUNT, 8) if name == "bilinear" else torch.randint(VOCABULARY, (COUNT, LENGTH))
