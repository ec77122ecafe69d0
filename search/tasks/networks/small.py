"""The networks that bitfront trains on 28x28 and 32x32 images: ResNet-8, a small MobileNetV2, DS-CNN."""

from torch import Tensor, nn


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Return convolution (no bias, "same" padding for stride 1), batch norm, and `act` if given."""
    parts: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*parts, act) if act else nn.Sequential(*parts)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, fig. 2); a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride, act=nn.ReLU())
        self.second = convolution(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        joined: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return joined


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project linearly (Sandler et al. 2018, arXiv:1801.04381, table 1); a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = convolution(inputs, hidden, act=nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.depthwise = convolution(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6())
        self.project = convolution(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class Classifier(nn.Module):
    """Features, global average pooling, one linear layer: [N, C, H, W] -> logits [N, classes]."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to logits [N, classes]."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def resnet8(channels: int, classes: int) -> nn.Module:
    """Return the ResNet-8 of MLPerf Tiny (arXiv:2106.07597), with batch norm on its shortcuts: 10 weight layers, 77,072 weights."""
    stem = convolution(channels, 16, 3, act=nn.ReLU())
    blocks = (BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2))
    return Classifier(nn.Sequential(stem, *blocks), 64, classes)


def mobilenetv2(channels: int, classes: int) -> nn.Module:
    """Return a MobileNetV2 (arXiv:1801.04381) cut for small images: 6 inverted residuals, 20 weight layers, 52,640 weights."""
    stem = convolution(channels, 16, 3, 2, act=nn.ReLU6())
    plan = ((16, 16, 1, 1), (16, 24, 2, 4), (24, 24, 1, 4), (24, 40, 1, 4), (40, 40, 1, 4), (40, 40, 1, 4))
    blocks = (InvertedResidual(*row) for row in plan)
    head = convolution(40, 160, act=nn.ReLU6())
    return Classifier(nn.Sequential(stem, *blocks, head), 160, classes)


def dscnn(channels: int, classes: int) -> nn.Module:
    """Return the DS-CNN of keyword spotting (Zhang et al. 2017, arXiv:1711.07128) with a 5x5 stem: 10 weight layers, 20,928 weights."""
    parts: list[nn.Module] = [convolution(channels, 64, 5, 2, act=nn.ReLU())]
    for stride in (1, 2, 1, 1):
        parts += [convolution(64, 64, 3, stride, groups=64, act=nn.ReLU()), convolution(64, 64, act=nn.ReLU())]
    return Classifier(nn.Sequential(*parts), 64, classes)
