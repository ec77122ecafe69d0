"""Small networks with attention of every form that is found, and what they give with quantized keys and values, written out by hand."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.codecs.quantize import fake_quantize
from quant_core.spec.quant_spec import QuantSpec

KINDS = ("fused", "fused grouped", "fused by head", "products", "einsum", "exponential")
X = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(4))
_COS, _SIN = (turn(torch.arange(6.0)[:, None] / 3.0 ** torch.arange(4)).repeat(1, 2) for turn in (torch.cos, torch.sin))


def rotary(x: Tensor) -> Tensor:
    """Return queries or keys [N, heads, 6, 8] with their rotary embedding."""
    left, right = x.chunk(2, dim=-1)
    return x * _COS + torch.cat([-right, left], dim=-1) * _SIN


def rows_quantized(spec: QuantSpec) -> Callable[[Tensor], Tensor]:
    """Return what quantizes every row of a head by itself."""

    def quantized(x: Tensor) -> Tensor:
        return torch.stack([fake_quantize(row[None], spec)[0] for row in x.reshape(-1, x.shape[-1])]).reshape(x.shape)

    return quantized


class Attention(nn.Module):
    """Attention of 4 heads of 8 whose keys and values have 2, by one fused layer, with rotary embeddings."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv, self.out = kind, nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, x: Tensor, cached: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """Return the outputs; `cached` is what the cache makes of keys and values."""
        q, k, v = (part.unflatten(-1, (-1, 8)).transpose(1, 2) for part in self.qkv(x).split([32, 16, 16], dim=-1))
        q, k, v = rotary(q), cached(rotary(k)), cached(v)
        if self.kind == "fused grouped":
            y = F.scaled_dot_product_attention(q, key=k, value=v, is_causal=True, enable_gqa=True)
        else:
            y = self._of_all_heads(q, *(part.repeat_interleave(2, dim=1) for part in (k, v)))
        return self.out(y.transpose(1, 2).flatten(2))

    def _of_all_heads(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kind == "fused":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.kind == "fused by head":
            return torch.stack([F.scaled_dot_product_attention(q[:, h], k[:, h], v[:, h]) for h in range(4)], dim=1)
        if self.kind == "einsum":
            return torch.einsum("bhts,bhsd->bhtd", (torch.einsum("bhtd,bhsd->bhts", q, k) / 8**0.5).softmax(-1), v)
        scores = (q @ k.transpose(-1, -2)) * 8**-0.5 + torch.full((6, 6), -torch.inf).triu(1)
        if self.kind == "exponential":
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            return weights / weights.sum(-1, keepdim=True) @ v
        return scores.softmax(-1) @ v


class Network(nn.Module):
    """Two calls of one attention, a linear layer before it whose input is laid out so that torch computes it as a batched product."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.attention, self.kind = nn.Linear(32, 32), Attention(kind), kind
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, cached: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """Return the outputs [N, 6, 32]."""
        x = self.first(x.transpose(0, 1)).transpose(0, 1)
        for _ in range(2):
            x = x + (self.attention(x) if cached(X) is X else self.attention(x, cached))
        return x


class Own(nn.Module):
    """torch's MultiheadAttention, with or without the weights that it may return."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.attention, self.weights = nn.MultiheadAttention(32, 4, batch_first=True), weights
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [N, 6, 32]."""
        y: Tensor = self.attention(x, x, x, need_weights=self.weights)[0]
        return y

    def by_hand(self, x: Tensor, cached: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the outputs with what the cache makes of keys and values."""
        inside = self.attention
        qkv = F.linear(x, inside.in_proj_weight, inside.in_proj_bias).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], cached(qkv[1]), cached(qkv[2]))
        return F.linear(y.transpose(1, 2).flatten(2), inside.out_proj.weight, inside.out_proj.bias)
