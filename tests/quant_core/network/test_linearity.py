"""What is linear in its weight and what is not; torch's own layers apart from their hooks and subclasses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.linearity import has_hooks, is_torchs_own, linear_operation, response_kind, weight_response

OWN = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "conv": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1, dilation=2, groups=2), (2, 6, 9, 9)),
    "same": (lambda: nn.Conv1d(6, 4, 4, padding="same", dilation=2), (2, 6, 9)),
    "circular": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (2, 6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 6, 5, 5)),
    "3-d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
}


class SamePadding(nn.Conv2d):
    """Pads in its forward pass, as EfficientNet's layers do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias)


class LowRank(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 4)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.a.t() @ self.b.t()


class Activated(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class Clamped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-20, 20)


class ScaledBias(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + 2 * self.bias


class Relative(nn.Linear):
    """Needs a second input."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return super().forward(x) + other


class Renamed(nn.Conv2d):
    """A subclass that adds nothing to the forward pass."""


@pytest.mark.parametrize("kind", OWN)
def test_the_linear_operation_is_that_of_the_layer(kind: str) -> None:
    torch.manual_seed(0)
    make, shape = OWN[kind]
    layer, x = make(), torch.randn(shape)
    assert is_torchs_own(layer)
    assert response_kind(layer, x) == "own"
    outputs = linear_operation(layer, layer.weight, x)
    assert layer.bias is not None
    bias = layer.bias.reshape(-1, *(1,) * (x.dim() - 2)) if x.dim() > 2 else layer.bias
    torch.testing.assert_close(outputs + bias, layer(x))


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        (SamePadding(6, 4, 2), (2, 6, 5, 5), "linear"),
        (SamePadding(6, 4, 2, bias=False), (2, 6, 5, 5), "linear"),
        (Standardized(6, 4, 2), (2, 6, 5, 5), "other"),
        (LowRank(), (3, 6), "affine"),
        (Activated(6, 4), (3, 6), "other"),
        (Clamped(6, 4), (3, 6), "other"),
        (ScaledBias(6, 4), (3, 6), "other"),
        (Relative(6, 4), (3, 6), "other"),
        (Renamed(6, 4, 2), (2, 6, 5, 5), "own"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_subclass_is_tested_on_its_input(layer: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    torch.manual_seed(0)
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    assert response_kind(layer, torch.randn(shape)) == kind
    assert all(torch.equal(before[name], parameter) for name, parameter in layer.named_parameters())


def test_a_subclass_with_hooks_is_left_alone_and_an_own_layer_is_taken_without_them() -> None:
    padded, plain, x = SamePadding(6, 4, 2), nn.Linear(6, 4), torch.randn(3, 6)
    for layer in (padded, plain):
        layer.register_forward_hook(lambda _m, _i, output: 3 * output)
        assert has_hooks(layer)
    assert response_kind(padded, torch.randn(2, 6, 5, 5)) == "other"
    response = weight_response(plain, plain.weight, x, "own")
    assert response is not None
    torch.testing.assert_close(3 * (response + plain.bias), plain(x))
