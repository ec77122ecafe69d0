"""Networks as their owners write them: subclasses, hooks, ties, modes, noise, transformers. Each maker returns network and inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.quant_core.network.test_linearity import SamePadding, Standardized

COUNT = 384
Made = tuple[nn.Module, Any]


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the activation is part of the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class Dense(nn.Module):
    """A DenseNet block: norm and activation before the convolution, outputs beside inputs."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = NormAct(channels), nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.norm(x))], dim=1)


class Residual(nn.Module):
    """A block beside its input."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class RepVgg(nn.Module):
    """Three branches with norms of their own, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.three = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.one = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.three(x) + self.one(x) + self.identity(x))


class LowRank(nn.Linear):
    """A linear layer with an adapter beside its weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs) / 4), nn.Parameter(torch.randn(outputs, 2) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.t() @ self.up.t()


class Tied(nn.Module):
    """Tokens in, scores of tokens out, by one weight: the same Parameter, or two over one storage."""

    def __init__(self, *, by_storage: bool, max_norm: float | None = None) -> None:
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(24, 16, max_norm=max_norm), nn.Linear(16, 16), nn.Linear(16, 24, bias=False)
        if by_storage:
            self.head.weight.data = self.table.weight.data
        else:
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.table(tokens).mean(dim=1))))  # type: ignore[no-any-return]


class Bag(nn.Module):
    """An embedding that renormalizes its weight in place as it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(24, 16, max_norm=1.0), nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).sum(dim=1))  # type: ignore[no-any-return]


class AlwaysDropout(nn.Module):
    """Dropout that eval mode leaves on, a little of it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.02, training=True)


class Mean(nn.Module):
    """The mean over one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=self.axis)


class Logits(nn.Module):
    """A transformers model whose outputs at the last position are asked for."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.body(input_ids=tokens).logits
        return logits[:, -1] if logits.dim() == 3 else logits


def images(body: nn.Module, *shape: int) -> Made:
    return body, torch.randn(COUNT, *(shape or (3, 12, 12)))


def tokens(body: nn.Module, length: int = 8) -> Made:
    return body, torch.randint(24, (COUNT, length))


def pooled(channels: int, classes: int = 6) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def mobilenet() -> Made:
    wide = nn.Sequential(
        nn.Conv2d(8, 24, 1, bias=False),
        NormAct(24),
        nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
        NormAct(24),
        nn.Conv2d(24, 8, 1, bias=False),
        nn.BatchNorm2d(8),
    )
    return images(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), NormAct(8), Residual(wide), *pooled(8)))


def hooked() -> Made:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), *pooled(8))
    model[0].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    model[4].register_forward_hook(lambda _module, _inputs, output: output.abs())
    return images(model)


def in_train_mode() -> Made:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), *pooled(8))
    return images(body.train())


def encoder() -> Made:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return images(nn.Sequential(nn.Linear(5, 16), nn.TransformerEncoder(layer, 2), Mean(1), nn.Linear(16, 6)), 6, 5)


def bert() -> Made:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return tokens(Logits(BertForSequenceClassification(BertConfig(vocab_size=24, num_labels=5, max_position_embeddings=16, **sizes))))


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    return tokens(Logits(GPT2LMHeadModel(GPT2Config(vocab_size=24, n_positions=16, n_embd=32, n_layer=2, n_head=2))))


def llama() -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    return tokens(Logits(LlamaForCausalLM(LlamaConfig(vocab_size=24, hidden_size=32, intermediate_size=48, **heads))))


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), *pooled(8))


def half(kind: torch.dtype) -> Made:
    body, inputs = images(plain())
    return body.to(kind), inputs.to(kind)


NETWORKS: dict[str, Callable[[], Made]] = {
    "mobilenet": mobilenet,
    "densenet": lambda: images(nn.Sequential(nn.Conv2d(3, 8, 3), Dense(8, 8), Dense(16, 8), NormAct(24), *pooled(24))),
    "weight-standardized": lambda: images(nn.Sequential(Standardized(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *pooled(8))),
    "lora": lambda: images(nn.Sequential(nn.Linear(12, 24), nn.ReLU(), LowRank(24, 24), nn.ReLU(), nn.Linear(24, 6)), 12),
    "hooked": hooked,
    "tied by parameter": lambda: tokens(Tied(by_storage=False)),
    "tied by storage": lambda: tokens(Tied(by_storage=True)),
    "train mode": in_train_mode,
    "max_norm": lambda: tokens(Bag()),
    "dropout in eval": lambda: images(nn.Sequential(nn.Linear(12, 24), nn.ReLU(), AlwaysDropout(), nn.Linear(24, 6)), 12),
    "padding in forward": lambda: images(nn.Sequential(SamePadding(3, 8, 2), nn.BatchNorm2d(8), nn.SiLU(), *pooled(8))),
    "encoder": encoder,
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "repvgg": lambda: images(nn.Sequential(nn.Conv2d(3, 8, 3), RepVgg(8), RepVgg(8), *pooled(8))),
    "1-d": lambda: images(
        nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3), Mean(2), nn.Linear(8, 6)), 4, 20
    ),
    "3-d": lambda: images(
        nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 5)), 2, 6, 6, 6
    ),
    "bfloat16": lambda: half(torch.bfloat16),
    "float16": lambda: half(torch.float16),
}
SLOW = ("bert", "gpt2", "llama", "encoder", "densenet")


def made(name: str) -> Made:
    """Return a network with statistics as after training, in eval mode (but "train mode"), and its inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = NETWORKS[name]()
        for norm in (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)):
            with torch.no_grad():
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.3, 2)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
    return (model if name == "train mode" else model.eval()), inputs
