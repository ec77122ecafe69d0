"""Networks of the zoo with something unusual in them: nested or sparse tensors, complex weights, one module in many places, dead ends."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.many_cases import COUNT, Case, images


class Padded(nn.Module):
    """torch's encoder as it comes, with a mask of padding: in eval mode it computes with nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Embedding(32, 16, padding_idx=0), nn.TransformerEncoder(layer, 2, nn.LayerNorm(16))
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=padding).mean(1))


def padded() -> dict[str, Tensor]:
    """Return sequences of 4 to 7 tokens in 8 places."""
    ends = 7 - torch.arange(COUNT) % 4
    return {"tokens": torch.randint(1, 32, (COUNT, 8)), "padding": torch.arange(8) >= ends[:, None]}


class Everywhere(nn.Module):
    """One block in many places of nested containers, and a layer of it once more by itself."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.parts = nn.ModuleDict(
            {"a": nn.ModuleDict({"x": block, "y": nn.Linear(8, 8)}), "b": nn.ModuleList([block, block[0], nn.Linear(8, 3)])}
        )

    def forward(self, x: Tensor) -> Tensor:
        first: nn.ModuleDict = self.parts["a"]  # type: ignore[assignment]
        for layer in (*first.values(), *self.parts["b"]):  # type: ignore[misc]
            x = layer(x)
        return x


class SparseGraph(nn.Module):
    """Graph convolutions by products with a sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        edges = (torch.rand(7, 7) < 0.4).float() + torch.eye(7)
        self.register_buffer("edges", (edges / edges.sum(1, keepdim=True)).to_sparse())
        self.first, self.last = nn.Linear(5, 8, bias=False), nn.Parameter(0.3 * torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.mixed(torch.relu(self.mixed(self.first(x)))) @ self.last).mean(1)

    def mixed(self, x: Tensor) -> Tensor:
        rows = torch.sparse.mm(self.edges, x.permute(1, 0, 2).reshape(7, -1))  # type: ignore[arg-type]
        return rows.reshape(7, x.shape[0], -1).permute(1, 0, 2)


class Waves(nn.Module):
    """WaveNet: gated dilated convolutions with a sum of skips; nothing reads the last residual."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Conv1d(4 if k == 0 else 8, 16, 2, dilation=2**k) for k in range(2))
        self.residuals, self.head = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(2)), nn.Conv1d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for k, (gate, residual) in enumerate(zip(self.gates, self.residuals, strict=True)):
            tanh, sigmoid = gate(functional.pad(x, (2**k, 0))).chunk(2, 1)
            skips.append(torch.tanh(tanh) * torch.sigmoid(sigmoid))
            x = residual(skips[-1])
        return self.head(torch.relu(torch.stack(skips).sum(0)))


class Fourier(nn.Module):
    """A Fourier neural operator: complex weights, which stay as they are, beside convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.beside, self.last = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 1, 1)
        self.modes = nn.Parameter(0.2 * torch.randn(8, 8, 5, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        low = torch.einsum("bix,iox->box", torch.fft.rfft(x)[..., :5], self.modes)
        return self.last(torch.relu(torch.fft.irfft(low, n=x.shape[-1]) + self.beside(x)))


class SkippedExperts(nn.Module):
    """Two of six experts per row; the last one runs in the second batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(8, 6), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        with torch.no_grad():
            self.gate.weight.zero_()
            self.gate.weight[:4, 1:5] = torch.eye(4)
            self.gate.weight[:, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, -9.0, 9.0])

    def forward(self, x: Tensor) -> Tensor:
        shares, chosen = self.gate(x).softmax(-1).topk(2, -1)
        mixed = x
        for number, expert in enumerate(self.experts):
            rows, slots = (chosen == number).nonzero(as_tuple=True)
            if rows.numel():
                mixed = mixed.index_add(0, rows, expert(x[rows]) * shares[rows, slots][:, None])
        return self.head(mixed)


def routed() -> Tensor:
    """Return rows of which the first half has -1 in the first place, the others 1."""
    return torch.cat([torch.linspace(-1, 1, COUNT).sign()[:, None], torch.randn(COUNT, 7)], dim=1)


OTHERS: dict[str, Case] = {
    "padded encoder": Case(Padded, padded),
    "one block everywhere": Case(Everywhere, images(8)),
    "sparse graph": Case(SparseGraph, images(7, 5), onnx=False),
    "wavenet": Case(Waves, images(4, 10)),
    "fourier operator": Case(Fourier, images(2, 16), classes=False, left=("modes",), onnx=False),
    "skipped experts": Case(SkippedExperts, routed, onnx=False),
}
