"""How many examples run at once: by measured bytes of activations, and only where parts give what the batch gives."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from quant_core.network.apart import activation_bytes, part_size
from quant_core.network.cutting import forward_in_parts
from quant_core.network.dispatch import RecordingMode


class LiveBytes(RecordingMode):
    """Counts the bytes of tensors that are alive, and keeps the most."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.most = 0, 0

    def __torch_dispatch__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(results):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self.live += leaf.nbytes
                weakref.finalize(leaf, self._ended, leaf.nbytes)
        self.most = max(self.most, self.live)
        return results

    def _ended(self, size: int) -> None:
        self.live -= size


def network(*further: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), *further).eval()


def most_alive(model: nn.Module, x: torch.Tensor, at_once: int) -> int:
    with torch.inference_mode(), LiveBytes() as live:
        forward_in_parts(model, x, at_once)
    gc.collect()
    return live.most


def test_parts_hold_the_activations_of_their_examples_alone() -> None:
    model, x = network(nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.rand(64, 3, 16, 16)
    one = activation_bytes(model, x)
    assert one == 2 * 8 * 16 * 16 * 4
    assert most_alive(model, x, 0) >= 64 * one
    size = part_size(model, x, part_bytes=16 * one)
    assert size == 16
    assert most_alive(model, x, size) <= 16 * one + x.nbytes


def test_a_batch_that_fits_is_never_cut() -> None:
    model, x = network(), torch.rand(64, 3, 16, 16)
    assert part_size(model, x) == 0
    assert part_size(model, x, part_bytes=64 * activation_bytes(model, x)) == 0
    assert part_size(model, x[:1], part_bytes=1) == 0


def test_a_part_has_as_many_examples_as_the_bytes_allow_and_one_at_least() -> None:
    model, x = network(), torch.rand(64, 3, 16, 16)
    one = activation_bytes(model, x)
    assert [part_size(model, x, part_bytes=count) for count in (1, 4 * one, 9 * one - 1, 63 * one)] == [1, 4, 8, 63]


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0)


class Beside(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x.sum()


class Whole(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(4, -1, *x.shape[1:]).flatten(0, 1)


@pytest.mark.parametrize("last", [Centred(), Beside(), Whole(), nn.Dropout(0.5).train()])
def test_a_network_that_does_not_treat_examples_apart_runs_whole_batches(last: nn.Module) -> None:
    model = network()
    model.append(last)  # as it is, in train mode where it was
    assert part_size(model, torch.rand(64, 3, 16, 16), part_bytes=2**15) == 0
