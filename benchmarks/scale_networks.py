"""Networks of real size with random weights, as tasks for `benchmarks.scale`."""

import torch
from torch import Tensor, nn

from search.tasks.task import Task

LLAMAS = {  # parameters in millions: hidden size, layers, intermediate size
    5: (256, 6, 688),
    25: (512, 8, 1376),
    100: (768, 14, 2048),
    400: (1280, 20, 3456),
}
VOCABULARY, SEQUENCES, TOKENS = 2048, 16, 32


class Logits(nn.Module):
    """A language model that returns its logits [N, T, V]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of every position."""
        logits: Tensor = self.network(tokens, use_cache=False).logits
        return logits


def llama(millions: int) -> Task:
    """Return a Llama-like network with random weights, and 16 sequences of 32 random tokens for every split."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, intermediate = LLAMAS[millions]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
    )
    tokens = torch.randint(VOCABULARY, (SEQUENCES, TOKENS + 1))
    split = [(tokens[:, :-1], tokens[:, 1:])]
    return Task(Logits(LlamaForCausalLM(config)).eval(), split, split, split, split, score=_next_token, loss=_next_token_loss, class_axis=2)


def _next_token(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=-1) == targets).to(torch.float32)


def _next_token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(end_dim=1), targets.flatten())


class Bottleneck(nn.Module):
    """The residual block of ResNet-50 (He et al. 2015, figure 5 right), stride in the 3 x 3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return torch.relu(self.body(x) + self.skip(x))


def resnet50(calib: int = 64, valid: int = 128) -> Task:
    """Return a network of ResNet-50's shape with random weights on random images at 224 x 224."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    inputs = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for number in range(count):
            blocks.append(Bottleneck(inputs, width, 2 if stage and not number else 1))
            inputs = 4 * width
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)).eval()
    images = _images(calib)
    return Task(model, train=images, calib=images, valid=_images(valid), test=_images(32))


def _images(count: int, batch: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(count)
    sizes = [min(batch, count - first) for first in range(0, count, batch)]
    return [(torch.randn(n, 3, 224, 224, generator=generator), torch.randint(1000, (n,), generator=generator)) for n in sizes]


def tiny_layers(count: int) -> Task:
    """Return a chain of `count` linear layers of 16 x 16 on 64 examples."""
    torch.manual_seed(0)
    layers = [layer for _ in range(count - 1) for layer in (nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(16, 10)).eval()
    split = [(torch.randn(64, 16), torch.randint(10, (64,)))]
    return Task(model, split, split, split, split)


def wide_convolution() -> Task:
    """Return a network with one convolution of 65,536 inputs per output (4,096 channels of 4 x 4 taps)."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4096, 1), nn.ReLU(), nn.Conv2d(4096, 64, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )
    split = [(torch.randn(16, 3, 6, 6), torch.randint(10, (16,)))]
    return Task(model.eval(), split, split, split, split)


def wide_head() -> Task:
    """Return a network with a head of 151,936 rows of 896 weights, as small language models have."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 896), nn.ReLU(), nn.Linear(896, 151_936))
    split = [(torch.randn(4, 64), torch.randint(10, (4,)))]
    return Task(model.eval(), split, split, split, split)
