"""The speed of every number format: `python -m benchmarks.quantize [--size-mib 64] [--threads 1,2] [--device cuda] [--no-peers] [--json]`.

GB/s of input (bytes read once) of quantize and dequantize of a float32 matrix, by wall clock and by process CPU time, beside a copy into a
preallocated tensor (the limit), torch's own kernel, and the other libraries that are installed. Best of a few runs, all in one process.
On a GPU the wall clock counts, up to the end of its work; the searches of clipping are then measured there alone.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.quantize_clipping import Search, searches, searches_on
from benchmarks.quantize_peers import peers
from quant_core.codecs.quantize import fake_quantize, fake_quantize_affine
from quant_core.util.devices import CPU, device_named, shown

COLUMNS = 4096
_INTEGERS = ("int4:tensor", "int4:channel", "int4:channel:affine", "int4:group128", "int4:group32", "int4:vector16", "int4:vector16:tensor")
_BLOCKS = ("mx4", "mx6", "mx9", "mxfp4", "mxfp6e2m3", "mxfp6e3m2", "mxfp8e4m3", "mxfp8e5m2", "mxint8", "nvfp4", "mxfp4:mse", "nvfp4:mse")
FORMATS = (*_INTEGERS, *_BLOCKS, "binary:channel", "ternary:twn", "ternary:ttq", "kmeans4:tensor")
_ENOUGH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Speed:
    """One operation on `threads` threads: GB/s of input by wall clock, per CPU second, and the latter over that of the copy."""

    name: str
    threads: int
    wall_gb_s: float
    cpu_gb_s: float
    of_copy: float


def best(action: Callable[[], object], repeats: int = 5, finish: Callable[[], object] = lambda: None) -> tuple[float, float]:
    """Return the least (wall, CPU) seconds of up to `repeats` runs, after one that is not counted; slow ones run once more only.

    `finish` waits for the device.
    """
    start = time.perf_counter()
    action()
    finish()
    repeats = repeats if time.perf_counter() - start < _ENOUGH_SECONDS else 1
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        finish()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def operations(x: Tensor, out: Tensor, with_peers: bool) -> dict[str, Callable[[], object]]:
    """Return name -> action on `x` [R, 4096]; ours write to `out`."""
    scales = x.abs().amax(dim=1) / 7
    zeros = torch.zeros(len(x), dtype=torch.int32, device=x.device)

    def ours(text: str) -> Callable[[], object]:
        return lambda: fake_quantize(x, text, out=out)

    actions: dict[str, Callable[[], object]] = {
        "copy_ (the limit)": lambda: out.copy_(x),
        "torch.fake_quantize_per_channel_affine": lambda: torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, -8, 7),
        "fake_quantize_affine, the same": lambda: fake_quantize_affine(x, scales, zeros, -8, 7, out=out),
    }
    actions |= {f"fake_quantize {text}": ours(text) for text in FORMATS}
    return actions | (peers(x) if with_peers else {})


def waiting(device: torch.device) -> Callable[[], object]:
    """Return what waits until the device has done all of its work."""
    return (lambda: None) if device == CPU else (lambda: torch.accelerator.synchronize(device))


def measure(size_mib: int, threads: tuple[int, ...], with_peers: bool, device: torch.device = CPU) -> list[Speed]:
    """Return the speed of every operation on a matrix of `size_mib`."""
    x = torch.randn(size_mib * 2**20 // 4 // COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(0)).to(device)
    finish = waiting(device)
    out, speeds, size = torch.zeros_like(x), [], x.numel() * 4 / 1e9
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            copy = best(lambda: out.copy_(x), 20, finish)
            for name, action in operations(x, out, with_peers).items():
                wall, cpu = best(action, finish=finish)
                of_copy = copy[1] / cpu if device == CPU else copy[0] / wall
                speeds.append(Speed(name, count, size / wall, size / cpu, of_copy))
    finally:
        torch.set_num_threads(before)
    return speeds


def show(speeds: list[Speed], searches: list[Search]) -> None:
    """Print the two tables."""
    console = Console(width=140)
    table = Table(
        "operation", "threads", "GB/s wall", "GB/s per CPU second", "of copy", title=f"{platform.machine()}, torch {torch.__version__}"
    )
    for speed in speeds:
        figures = (f"{speed.wall_gb_s:.3f}", f"{speed.cpu_gb_s:.3f}", f"{speed.of_copy:.3f}")
        table.add_row(speed.name, str(speed.threads), *figures)
    console.print(table)
    table = Table("search", "seconds", "measured against", "seconds", "ratio", title="clipping, one thread, CPU seconds")
    for search in searches:
        table.add_row(search.name, f"{search.seconds:.3f}", search.beside, f"{search.beside_seconds:.3f}", f"{search.ratio:.1f}")
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=64, help="size of the matrix (default 64)")
    parser.add_argument("--threads", default="1,2", help="thread counts, as in 1,2")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    device, threads = device_named(arguments.device), tuple(int(count) for count in arguments.threads.split(","))
    threads = threads if device == CPU else threads[:1]
    print(shown(device), file=sys.stderr)
    speeds = measure(arguments.size_mib, threads, not arguments.no_peers and device == CPU, device)
    if device == CPU:
        clipping = searches(arguments.size_mib, lambda action: best(action, 2)[1])
    else:
        clipping = searches_on(device, arguments.size_mib, lambda action: best(action, 2, waiting(device))[0])
    if arguments.json:
        print(json.dumps({"formats": [asdict(speed) for speed in speeds], "clipping": [asdict(search) for search in clipping]}, indent=2))
    else:
        show(speeds, clipping)


if __name__ == "__main__":
    main()
