"""Small networks for images, signals and volumes, as people write them."""

import warnings
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.many_cases import Case, images
from tests.zoo.zoo_networks import RepVgg, pooled


def block(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Basic(nn.Module):
    """ResNet's block, with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = block(inputs, outputs, stride=stride), block(outputs, outputs)[:2]
        self.down = block(inputs, outputs, 1, stride)[:2] if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.two(self.one(x)) + self.down(x))


class Squeeze(nn.Module):
    """Squeeze and excitation with hard sigmoid, as MobileNetV3's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class ConvNext(nn.Module):
    """ConvNeXt's block: channels last, layer norm, layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.up, self.down, self.gamma = nn.Linear(channels, 32), nn.Linear(32, channels), nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, then all are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(block(half, half, 1), block(half, half, groups=half)[:2], block(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return F.channel_shuffle(torch.cat([kept, self.body(changed)], dim=1), 2)


class Inception(nn.Module):
    """Branches side by side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"a": block(inputs, 4, 1), "b": block(inputs, 4, 3), "c": block(inputs, 4, 5)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()] + [F.max_pool2d(x, 3, 1, 1)], dim=1)


class UNet(nn.Module):
    """Down, up, and the skip between; transposed convolution or interpolation."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.down, self.middle = block(3, 8), block(8, 16, stride=2)
        self.up = (
            nn.ConvTranspose2d(16, 8, 2, 2) if transposed else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), block(16, 8))
        )
        self.merge, self.head = block(16, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.head(self.merge(torch.cat([skip, self.up(self.middle(skip))], dim=1)))  # type: ignore[no-any-return]


class Espcn(nn.Module):
    """Super-resolution: the image enlarged, and what convolutions and a pixel shuffle add."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.PReLU(16), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bicubic") + 0.1 * self.body(x)


class Pyramid(nn.Module):
    """A detector of one stage: a pyramid of features, one head for all levels, outputs as a dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low, self.high = block(3, 8, stride=2), block(8, 16, stride=2), block(16, 24, stride=2)
        self.lateral = nn.ModuleList([nn.Conv2d(16, 12, 1), nn.Conv2d(24, 12, 1)])
        self.classes, self.boxes = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        low = self.low(self.stem(x))
        high = self.high(low)
        top = self.lateral[1](high)
        levels = [self.lateral[0](low) + F.interpolate(top, scale_factor=2, mode="nearest"), top]
        scores, boxes = ([head(level).flatten(2) for level in levels] for head in (self.classes, self.boxes))
        return {"boxes": [box.exp() for box in boxes], "logits": [torch.cat(scores, dim=2)]}


class Ssd(nn.Module):
    """Two feature maps with anchors each, outputs as a tuple of tensors [N, anchors, classes] and [N, anchors, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.further = nn.Sequential(block(3, 8, stride=2), block(8, 16, stride=2)), block(16, 16, stride=2)
        self.heads = nn.ModuleList([nn.ModuleList([nn.Conv2d(16, 2 * size, 3, padding=1) for size in (5, 4)]) for _ in range(2)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.body(x)
        outputs = []
        for size, place in ((5, 0), (4, 1)):
            maps = [heads[place](level) for heads, level in zip(self.heads, (first, self.further(first)), strict=True)]
            outputs.append(torch.cat([m.permute(0, 2, 3, 1).reshape(len(x), -1, size) for m in maps], dim=1))
        return outputs[0], outputs[1]


class Detr(nn.Module):
    """Set prediction: a backbone, torch's transformer, learned queries; the shape of DETR's demo."""

    def __init__(self, queries: int = 5, width: int = 16) -> None:
        super().__init__()
        self.backbone, self.project = nn.Sequential(block(3, 8, stride=2), block(8, 16, stride=2)), nn.Conv2d(16, width, 1)
        self.transformer = nn.Transformer(width, 2, 1, 1, 32, batch_first=True)
        self.queries, self.row, self.column = (
            nn.Parameter(torch.rand(n, k)) for n, k in ((queries, width), (8, width // 2), (8, width // 2))
        )
        self.classes, self.boxes = nn.Linear(width, 6), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.project(self.backbone(x))
        rows, columns = h.shape[-2:]
        places = torch.cat([self.column[:columns].repeat(rows, 1, 1), self.row[:rows].unsqueeze(1).repeat(1, columns, 1)], dim=-1)
        memory = places.flatten(0, 1).unsqueeze(0) + h.flatten(2).transpose(1, 2)
        decoded = self.transformer(memory, self.queries.unsqueeze(0).repeat(len(x), 1, 1))
        return {"pred_logits": self.classes(decoded), "pred_boxes": self.boxes(decoded).sigmoid()}


class Mixer(nn.Module):
    """MLP-Mixer: one layer over patches, one over channels."""

    def __init__(self, patches: int = 9, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norms = nn.Conv2d(3, width, 4, 4), nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.tokens = nn.Sequential(nn.Linear(patches, 12), nn.GELU(), nn.Linear(12, patches))
        self.channels, self.head = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)), nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).flatten(2).transpose(1, 2)
        y = y + self.tokens(self.norms[0](y).transpose(1, 2)).transpose(1, 2)
        y = y + self.channels(self.norms[1](y))
        return self.head(self.norms[2](y).mean(dim=1))  # type: ignore[no-any-return]


class Codec(nn.Module):
    """An autoencoder of sound: strided and transposed convolutions of one axis, dilated ones between, parametrized or not."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv1d(1, 8, 7, 2, 3), nn.ELU(), nn.Conv1d(8, 16, 5, 2, 2), nn.ELU())
        self.middle = nn.Conv1d(16, 16, 3, padding=4, dilation=4)
        self.decode = nn.Sequential(nn.ConvTranspose1d(16, 8, 4, 2, 1), nn.ELU(), nn.ConvTranspose1d(8, 1, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y = self.encode(x)
        return self.decode(y + torch.tanh(self.middle(y)))  # type: ignore[no-any-return]


class OwnKernels(nn.Module):
    """Convolutions with bare parameters: plain, depthwise, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.deep, self.up = (nn.Parameter(torch.randn(shape) / 4) for shape in ((8, 3, 3, 3), (8, 1, 3, 3), (8, 4, 2, 2)))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, self.plain, padding=1))
        y = F.relu(F.conv2d(y, self.deep, padding=1, groups=8))
        return F.conv_transpose2d(y, self.up, stride=2)


class Discriminator(nn.Module):
    """Weights that are computed in each call: spectral norm by a parametrization, weight norm by hooks."""

    def __init__(self) -> None:
        super().__init__()
        one, two = nn.Conv2d(3, 8, 3), nn.Linear(8, 6)
        self.one = nn.utils.parametrizations.spectral_norm(one)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its successor
            self.two = nn.utils.weight_norm(two)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.leaky_relu(self.one(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Siren(nn.Module):
    """An image as a function of coordinates: sines of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([nn.Linear(2, 24), nn.Linear(24, 24)]), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(5 * layer(x))
        return self.head(x)  # type: ignore[no-any-return]


def named() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            stem=block(3, 8, stride=2),
            body=nn.Sequential(block(8, 24, 1), block(24, 24, groups=8), Squeeze(24)),
            head=nn.Sequential(*pooled(24)),
        )
    )


VISION = {
    "resnet": Case(lambda: nn.Sequential(block(3, 8), Basic(8, 8, 1), Basic(8, 16, 2), *pooled(16)), images(3, 12, 12)),
    "regnet with excitation": Case(named, images(3, 12, 12)),
    "mobilenetv3": Case(
        lambda: nn.Sequential(block(3, 16), block(16, 16, groups=16), Squeeze(16), nn.Hardswish(), *pooled(16)), images(3, 12, 12)
    ),
    "convnext": Case(lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), ConvNext(16), ConvNext(16), *pooled(16)), images(3, 16, 16)),
    "shufflenet": Case(lambda: nn.Sequential(block(3, 16), Shuffle(16), Shuffle(16), *pooled(16)), images(3, 12, 12)),
    "inception": Case(lambda: nn.Sequential(block(3, 8), Inception(8), *pooled(20)), images(3, 12, 12)),
    "repvgg": Case(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), RepVgg(8), RepVgg(8), *pooled(8)), images(3, 12, 12)),
    "unet": Case(lambda: UNet(transposed=True), images(3, 12, 12)),
    "unet, interpolated": Case(lambda: UNet(transposed=False), images(3, 12, 12)),
    "super-resolution": Case(Espcn, images(3, 8, 8), classes=False),
    "detector, pyramid": Case(Pyramid, images(3, 24, 24), "logits.0"),
    "detector, tuple": Case(Ssd, images(3, 24, 24), "1", classes=False, onnx=False),
    "detr": Case(Detr, images(3, 16, 16), "pred_boxes", classes=False, left=("queries", "row", "column"), onnx=False),
    "mixer": Case(Mixer, images(3, 12, 12)),
    "sound codec": Case(Codec, images(1, 32), classes=False),
    "own kernels": Case(OwnKernels, images(3, 8, 8)),
    "computed weights": Case(Discriminator, images(3, 8, 8)),
    "siren": Case(Siren, images(2), classes=False),
    "volumes": Case(
        lambda: nn.Sequential(nn.Conv3d(1, 6, 3), nn.InstanceNorm3d(6), nn.ReLU(), nn.ConvTranspose3d(6, 3, 3)), images(1, 6, 6, 6)
    ),
    "group norm, bfloat16": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.SiLU(), *pooled(16)).bfloat16(),
        lambda: images(3, 12, 12)().bfloat16(),
        onnx=False,
    ),
}
