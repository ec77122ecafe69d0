from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant_core.transforms.flow import find_streams
from quant_core.transforms.maps import ChannelMap, random_rotation
from quant_core.transforms.parts import parts_of
from quant_core.transforms.streams import Source, Stream


class Between(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.between = nn.Linear(8, 8), nn.Linear(8, 8), between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.between(self.first(x)))
        return y


def stream(between: Callable[[Tensor], Tensor], channel_map: ChannelMap) -> Stream:
    """Return the stream that starts at the first layer."""
    model, x = Between(between).eval(), torch.randn(1, 6, 8)
    parts = parts_of(model, x)

    def source(name: str, _output: Tensor) -> Source | None:
        return Source(channel_map) if name == "first" else None

    layers, opaque = parts.layers, parts.opaque
    (only,) = find_streams(model, x, layers=layers, readers=parts.linear, opaque=opaque, source=source, constants={})
    return only


def in_place(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    return y


def added_in_place(x: Tensor) -> Tensor:
    view = x.view(6, 8)
    x *= 2.0
    return view.view(1, 6, 8)


ROTATION = ChannelMap(8, random_rotation(8, 0))
SCALE = ChannelMap(8, scale=torch.linspace(0.5, 2.0, 8, dtype=torch.float64))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.flip(1) * 3.0,
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: torch.cat([x[:, :2], x[:, 2:]], dim=1).transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: torch.softmax(x @ x.transpose(1, 2), dim=-1) @ x,
        lambda x: x.mean(dim=1, keepdim=True),
    ],
)
def test_what_keeps_a_rotation(between: Callable[[Tensor], Tensor]) -> None:
    found_stream = stream(between, ROTATION)
    assert not found_stream.broken
    assert found_stream.sinks == ["last"]


@pytest.mark.parametrize(
    "between",
    [torch.relu, lambda x: x + 1.0, lambda x: x.roll(1, dims=-1), lambda x: x * torch.arange(8.0), in_place, added_in_place, torch.exp],
)
def test_what_does_not_keep_a_rotation_breaks_the_stream(between: Callable[[Tensor], Tensor]) -> None:
    assert stream(between, ROTATION).broken


def test_a_scale_goes_through_relu_and_not_through_gelu() -> None:
    assert not stream(torch.relu, SCALE).broken
    assert "gelu" in stream(nn.functional.gelu, SCALE).broken


def test_what_the_network_returns_is_not_mapped() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(2, 8)
    parts = parts_of(model, x)
    (only,) = find_streams(
        model, x, layers=parts.layers, readers=parts.linear, opaque={}, source=lambda _name, _y: Source(ROTATION), constants={}
    )
    assert only.broken == "the network returns it"
