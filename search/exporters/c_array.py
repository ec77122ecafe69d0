"""`bitfront_model.h` and `bitfront_kernels.h`: integer weights for microcontrollers, compiled and run here on the test split."""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from quant_core.export.c_array import KERNEL, CLayer, c_layers, header
from quant_core.export.norms import norms_into_scales
from quant_core.export.stored import Quantized
from quant_core.export.symbolics import plain_operators
from quant_core.network.forward import forward
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_text
from quant_core.util.text import listed
from search.exporters import Bundle, Exported
from search.exporters.verify import compare, require_close

FILE, KERNELS = "bitfront_model.h", "bitfront_kernels.h"
MACS = 1_000_000_000
"""Multiply-accumulates that the plain C loops are given: as many test examples are run as fit, two at least."""
Integers = NDArray[np.int64]
Job = tuple[int, Integers, tuple[int, ...]]
"""Layer, input codes [channels, H, W] or [rows, channels], shape of the output [H, W, channels]."""
RunC = Callable[[Sequence[Job]], list[Integers]]

_MAIN = """#include <stdio.h>
#include <stdlib.h>
#include "bitfront_kernels.h"
int main(void) {
    int32_t sizes[5];
    while (fread(sizes, 4, 5, stdin) == 5) {
        const bitfront_layer *l = &bitfront_layers[sizes[0]];
        const size_t n = (size_t)sizes[1] * sizes[2] * l->in_channels, m = (size_t)sizes[3] * sizes[4] * l->out_channels;
        int8_t *x = malloc(n);
        int32_t *acc = malloc(4 * m);
        if (fread(x, 1, n, stdin) != n) return 1;
        bitfront_run(l, x, sizes[1], sizes[2], sizes[3], sizes[4], acc);
        if (fwrite(acc, 4, m, stdout) != m) return 1;
        free(x);
        free(acc);
    }
    return 0;
}
"""


@dataclass
class Tally:
    """The count of compared integers, and the layers with unequal ones."""

    compared: int = 0
    wrong: tuple[str, ...] = ()


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write both headers, compile them with the system's C compiler and run every layer of test examples through them.

    Every integer is compared with torch's. Operations between the layers are float here, as in the simulation; scales and rounded biases
    are the header's.

    Raises:
        InputError: a layer that these integers cannot hold.
        BitfrontError: no C compiler, an integer differs, or outputs are not the simulation's.
    """
    network = norms_into_scales(bundle.network)
    layers = c_layers(network)
    write_text(folder / FILE, header(layers, f"Policy {bundle.policy.id} for {bundle.experiment.task.name}."))
    write_text(folder / KERNELS, KERNEL)
    tally, examples = Tally(), max(2, MACS // max(1, sum(layer.macs for layer in bundle.layers)))
    with compiled(folder) as run:
        model = _with_c_layers(network, layers, run, tally)
        with plain_operators():  # torch's fused kernels read the weights of the layers that are in C
            comparison = compare(bundle, lambda inputs: forward(model, inputs), examples)
    if tally.wrong:
        raise BitfrontError(f"the compiled C code gives other integers than torch in {listed(tally.wrong)}; report this.")
    comparison = require_close(bundle, comparison, "the compiled C code", spare=1)
    carried = [layer.stored.layer.name for layer in layers if layer.bits != layer.stored.policy.weight.bits]
    notes = (f"weights of other than 8 or 4 bits are carried in the next of these: {listed(carried)}",) if carried else ()
    arrays = sum(len(layer.packed()) + 4 * len(layer.bias) + 4 * len(layer.scales) for layer in layers)
    integers = {"integers_compared": tally.compared, "integers_different": 0, "array_bytes": arrays}
    return Exported((FILE, KERNELS), comparison.checks | integers, notes)


def _with_c_layers(network: Quantized, layers: Sequence[CLayer], run: RunC, tally: Tally) -> nn.Module:
    """Return the network with its layers in C."""
    model = network.plain.eval()
    for i, layer in enumerate(layers):
        module = model.get_submodule(layer.stored.layer.name)
        places = [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is module]
        in_c = _InC(module, i, layer, run, tally)
        for parent, name in places:
            setattr(parent, name, in_c)
    return model


class _InC(nn.Module):
    """One layer computed by the compiled code: floats in, codes, integers, floats out."""

    def __init__(self, module: nn.Module, index: int, layer: CLayer, run: RunC, tally: Tally) -> None:
        super().__init__()
        self.module, self.index, self.layer, self.run, self.tally = module.double(), index, layer, run, tally

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer: networks ask for sizes, and for the type of weights."""
        if name == "module" or name.startswith("_"):
            return super().__getattr__(name)
        value = getattr(self.module, name)
        return value.float() if isinstance(value, Tensor) else value

    def forward(self, x: Tensor) -> Tensor:
        """Return acc in_scale weight_scale / 2^acc_shift, the shape of the layer's output."""
        layer = self.layer
        assert layer.stored.grid is not None
        scale, zero_point, low, high = layer.stored.grid
        codes = (x * (1.0 / scale)).round().add(zero_point).clamp(low, high)
        wanted = self._torch(codes - zero_point)
        sums = self._c(codes.numpy().astype(np.int64) - layer.offset, wanted)
        self.tally.compared += wanted.numel()
        name = layer.stored.layer.name
        if not torch.equal(sums, wanted) and name not in self.tally.wrong:
            self.tally.wrong += (name,)
        steps = torch.from_numpy(layer.scales.astype(np.float64) * scale / 2**layer.shift)
        return (sums * (steps.view(-1, 1, 1) if layer.stored.layer.kernel else steps)).to(x.dtype)

    def _torch(self, integers: Tensor) -> Tensor:
        """Return torch's sums for the same integers, in float64, which holds them exactly."""
        layer, bias = self.layer, torch.from_numpy(self.layer.bias).double()
        self.module.register_parameter("bias", nn.Parameter(torch.zeros_like(bias), requires_grad=False))
        parameters = {"weight": torch.from_numpy(layer.integers << layer.shift).double(), "bias": bias}
        sums: Tensor = functional_call(self.module, parameters, (integers.double(),))
        return sums

    def _c(self, codes: Integers, like: Tensor) -> Tensor:
        """Return the compiled code's sums, the shape of `like`."""
        if not self.layer.stored.layer.kernel:
            rows = codes.reshape(-1, codes.shape[-1])
            (sums,) = self.run([(self.index, rows, (len(rows), 1, like.shape[-1]))])
            return torch.from_numpy(sums).double().reshape(like.shape)
        shape = (*like.shape[2:], like.shape[1])
        examples = self.run([(self.index, example, shape) for example in codes])
        return torch.from_numpy(np.stack(examples)).permute(0, 3, 1, 2).double()


@contextmanager
def compiled(folder: Path) -> Iterator[RunC]:
    """Compile the headers in `folder`; yield the function that runs jobs.

    Raises:
        BitfrontError: there is no C compiler, or it or the program fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BitfrontError("no C compiler (cc, gcc, clang) to verify the header with; install one.")
    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch, "main.c"), Path(scratch, "main")
        source.write_text(_MAIN, encoding="utf-8")
        flags = ["-O2", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{folder}"]
        _output_of([compiler, *flags, str(source), "-o", str(program)], b"")
        yield lambda jobs: _run(program, jobs)


def _output_of(command: Sequence[str], stdin: bytes) -> bytes:
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise BitfrontError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout


def _run(program: Path, jobs: Sequence[Job]) -> list[Integers]:
    messages = []
    for index, codes, (out_h, out_w, _) in jobs:
        pixels = codes.transpose(1, 2, 0) if codes.ndim == 3 else codes[:, None, :]
        messages.append(np.array([index, *pixels.shape[:2], out_h, out_w], dtype="<i4").tobytes() + pixels.astype(np.int8).tobytes())
    values, sums, position = np.frombuffer(_output_of([str(program)], b"".join(messages)), dtype="<i4"), [], 0
    for _, _, shape in jobs:
        count = math.prod(shape)
        sums.append(values[position : position + count].reshape(shape).astype(np.int64))
        position += count
    return sums
