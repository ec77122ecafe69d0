"""The embedded network: a depthwise-separable CNN for 8x8 digits."""

from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Return convolution (no bias, "same" padding), batch norm, and ReLU if `relu`."""
    parts: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*parts, nn.ReLU()) if relu else nn.Sequential(*parts)


class DigitsNet(nn.Module):
    """Nine weight layers, 30,592 weights: stem, three depthwise-separable blocks (the second residual), 1x1 head, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 32, 3)
        self.depthwise1 = conv(32, 32, 3, groups=32)
        self.pointwise1 = conv(32, 96)
        self.depthwise2 = conv(96, 96, 3, groups=96)
        self.pointwise2 = conv(96, 96, relu=False)
        self.depthwise3 = conv(96, 96, 3, stride=2, groups=96)
        self.pointwise3 = conv(96, 96)
        self.head = conv(96, 64)
        self.classifier = nn.Linear(64, 10)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, 1, 8, 8] in [0, 1] to logits [N, 10]."""
        x = self.pointwise1(self.depthwise1(self.stem(x)))
        x = self.relu(x + self.pointwise2(self.depthwise2(x)))
        x = self.head(self.pointwise3(self.depthwise3(x)))
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits
