"""The searches of clipping against what a user would write: for `benchmarks.quantize`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_core.clipping import ranges
from quant_core.spec.quant_spec import parse

_CHANNELS, _COLUMNS = 256, 4096
_GRID = 80


@dataclass(frozen=True, slots=True)
class Search:
    """CPU seconds of one of our searches over all channels, and of what it is measured against; ratio: the larger over the smaller."""

    name: str
    seconds: float
    beside: str
    beside_seconds: float
    ratio: float


def searches(size_mib: int, cpu_seconds: Callable[[Callable[[], object]], float]) -> list[Search]:
    """Return OCTAV and KL in passes' worth of reading a matrix of `size_mib`, the MSE search against a Python loop over 256 channels."""
    x = torch.randn(size_mib * 2**20 // 4 // _COLUMNS, _COLUMNS, generator=torch.Generator().manual_seed(0))
    few = x[:_CHANNELS].contiguous()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        read = cpu_seconds(lambda: torch.aminmax(x))
        octav = cpu_seconds(lambda: ranges(x, parse("int4:channel:octav")))
        kl = cpu_seconds(lambda: ranges(x, parse("int8:channel:kl")))
        mse = cpu_seconds(lambda: ranges(few, parse("int4:channel:mse")))
        loop = cpu_seconds(lambda: mse_by_channel(few))
    finally:
        torch.set_num_threads(before)
    return [
        Search(f"octav, {len(x)} channels of {_COLUMNS}", octav, "one pass of torch.aminmax", read, octav / read),
        Search(f"kl, {len(x)} channels of {_COLUMNS}", kl, "one pass of torch.aminmax", read, kl / read),
        Search(f"mse, {len(few)} channels of {_COLUMNS}", mse, f"Python loop, {_GRID} scales per channel", loop, loop / mse),
    ]


def searches_on(device: torch.device, size_mib: int, seconds: Callable[[Callable[[], object]], float]) -> list[Search]:
    """Return every search on a GPU, in passes' worth of reading the matrix there; `seconds` by the wall clock."""
    x = torch.randn(size_mib * 2**20 // 4 // _COLUMNS, _COLUMNS, generator=torch.Generator().manual_seed(0)).to(device)
    read = seconds(lambda: torch.aminmax(x))
    rows = []
    for text in ("int4:channel:octav", "int8:channel:kl", "int4:channel:mse", "int4:channel:mse:affine", "int4:channel:percentile"):
        spec = parse(text)
        spent = seconds(lambda spec=spec: ranges(x, spec))  # type: ignore[misc]
        rows.append(Search(f"{text}, {len(x)} channels of {_COLUMNS}", spent, "one pass of torch.aminmax", read, spent / read))
    return rows


def mse_by_channel(x: Tensor) -> list[float]:
    """Return the best of 80 scales of every channel, one channel and one scale at a time, by torch's own kernel."""
    clips = []
    for row in x:
        top, best, least = float(row.abs().max()) / 7, 0.0, float("inf")
        for i in range(_GRID):
            scale = top * (1.0 - i / _GRID)
            error = float(torch.nn.functional.mse_loss(torch.fake_quantize_per_tensor_affine(row, scale, 0, -8, 7), row))
            if error < least:
                best, least = scale, error
        clips.append(best)
    return clips
