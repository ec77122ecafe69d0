"""How fast the hardware models are, on one core: `python -m benchmarks.hw_models`.

The 53 layers of MobileNetV2 (as HAQ's table lists them) under every legal pair of 1 to 8 bit integers: time to build the cost table
of each model with nothing cached, time per policy and metric in a batch of 100,000, time of a single policy. Then the 1-bit kernel
against float32 `torch.matmul`, M = N = K = 1024, one thread.
"""

import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hw_models.device import FOLDER, Device
from hw_models.loading import load_device
from hw_models.shapes import read_layers, shape_of
from hw_models.table import build_table
from quant_core.kernels.packed_signs import pack_signs, xnor_gemm
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import make

DEVICES = ("counts", "bitfusion", "vu9p-bitserial", "vu9p-lut", "stm32h743-tinyengine", "mpic", "t4", "a100", "horowitz-45nm")
POLICIES = 100_000
REPEATS = 5


def seconds(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the least process CPU time of `repeats` runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def legal_choices(device: Device, layers: tuple[Layer, ...]) -> dict[str, tuple[LayerPolicy, ...]]:
    """Return, per layer, every pair of 1 to 8 bit integers that the device runs."""
    pairs = [LayerPolicy(make("int", w, "channel"), make("int", a, "tensor")) for w in range(1, 9) for a in range(1, 9)]
    return {layer.name: tuple(pair for pair in pairs if device.legal(layer).allows(pair)) for layer in layers}


def measure(name: str, layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """Return one row of the printed table."""
    device = load_device(name)
    choices = legal_choices(device, layers)
    build = seconds(lambda: build_table(device, layers, choices), 1)
    per_shape = build / len({shape_of(layer) for layer in layers})
    table = build_table(device, layers, choices)
    counts = [len(row) for row in table.choices]
    index = np.random.default_rng(0).integers(counts, size=(POLICIES, len(layers)))
    batch = seconds(lambda: table.cost(index)) / POLICIES / len(table.metrics)
    one = index[:1]
    single = seconds(lambda: [table.cost(one) for _ in range(1000)]) / 1000
    policy = {layer.name: choices[layer.name][k] for layer, k in zip(layers, index[0], strict=True)}
    named = seconds(lambda: [table.totals(policy) for _ in range(100)]) / 100
    figures = (f"{build * 1e3:.1f}", f"{per_shape * 1e3:.2f}", f"{batch * 1e9:.0f}", f"{single * 1e6:.1f}", f"{named * 1e6:.0f}")
    return name, device.file.identity.kind, str(max(counts)), str(len(table.metrics)), *figures


def xnor_row(size: int = 1024) -> tuple[str, ...]:
    """Return one row of the printed table of products: packed, with packing of one operand, and the float32 product."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, size, size)).astype(np.float32)
    a, b = pack_signs(x), pack_signs(w)
    signs = (np.where(operand >= 0, 1, -1) for operand in (x, w))
    left, right = (sign.astype(np.float32) for sign in signs)
    assert np.array_equal(xnor_gemm(a, b, size), (left @ right.T).astype(np.int32))
    floats = torch.from_numpy(left), torch.from_numpy(right.T.copy())
    packed = seconds(lambda: xnor_gemm(a, b, size), 20)
    packing = seconds(lambda: xnor_gemm(pack_signs(x), b, size), 20)
    dense = seconds(lambda: torch.matmul(*floats), 20)
    times = (f"{least * 1e3:.2f}" for least in (packed, packing, dense))
    return str(size), *times, f"{dense / packed:.1f}", f"{dense / packing:.1f}"


def main() -> None:
    """Print the table."""
    layers = read_layers(FOLDER / "haq_vu9p_mobilenetv2.csv")
    heads = (
        "device",
        "model",
        "choices",
        "metrics",
        "build ms",
        "ms / shape",
        "ns / policy / metric",
        "one policy us",
        "one policy by name us",
    )
    table = Table(*heads, title=f"{len(layers)} layers, {POLICIES} policies, process CPU time")
    with tempfile.TemporaryDirectory() as empty:
        os.environ["BITFRONT_CACHE"] = empty  # schedules are searched, not read back
        for name in DEVICES:
            table.add_row(*measure(name, layers))
    products = Table(
        "M = N = K", "xnor ms", "with packing ms", "float32 ms", "ratio", "ratio with packing", title="1-bit product, one thread"
    )
    products.add_row(*xnor_row())
    Console().print(table, products)


if __name__ == "__main__":
    main()
