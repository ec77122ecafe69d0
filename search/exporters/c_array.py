"""`bitfront_model.h` and `bitfront_kernels.h`: integer weights for microcontrollers, compiled and run here on inputs of the test split."""

import copy
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from quant_core.errors import BitfrontError
from quant_core.export.c_array import KERNEL, CLayer, c_layers, header
from quant_core.export.stored import stored_layers
from quant_core.files import write_text
from quant_core.forward import forward
from search.evaluator import take
from search.exporters import Bundle, Exported

FILE, KERNELS = "bitfront_model.h", "bitfront_kernels.h"
EXAMPLES = 2
Integers = NDArray[np.int64]

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


def export(bundle: Bundle, folder: Path) -> Exported:
    """Write both headers, compile them with the system's C compiler, and compare every layer's integers with torch's.

    Raises:
        InputError: a layer that these integers cannot hold.
        BitfrontError: no C compiler, or an integer differs.
    """
    stored = stored_layers(bundle.evaluator.engine, bundle.layers, bundle.policy)
    model = bundle.evaluator.engine.apply(bundle.policy)
    layers = c_layers(model, stored)
    write_text(folder / FILE, header(layers, f"Policy {bundle.policy.id} for {bundle.experiment.task.name}."))
    write_text(folder / KERNELS, KERNEL)
    seen = _inputs(bundle, model, layers)
    jobs = [(i, _codes(layers[i], example)) for i, batch in enumerate(seen) for example in batch]
    expected = [_expected(model.get_submodule(layers[i].stored.layer.name), layers[i], codes) for i, codes in jobs]
    found = run_c(folder, [(i, codes, each.shape) for (i, codes), each in zip(jobs, expected, strict=True)])
    wrong = sorted({layers[i].stored.layer.name for (i, _), a, b in zip(jobs, expected, found, strict=True) if not np.array_equal(a, b)})
    if wrong:
        raise BitfrontError(f"the compiled C code gives other integers than torch in {', '.join(wrong)}; report this.")
    carried = [each.stored.layer.name for each in layers if each.bits != each.stored.policy.weight.bits]
    notes = (f"weights of other than 8 or 4 bits are carried in the next of these: {', '.join(carried)}",) if carried else ()
    arrays = sum(len(each.packed()) + 4 * len(each.bias) + 4 * _scales(each) for each in layers)
    return Exported(
        (FILE, KERNELS), {"integers_compared": sum(each.size for each in expected), "integers_different": 0, "array_bytes": arrays}, notes
    )


def _scales(layer: CLayer) -> int:
    assert layer.stored.encoded is not None
    assert layer.stored.encoded.scale is not None
    return layer.stored.encoded.scale.numel()


def _inputs(bundle: Bundle, model: nn.Module, layers: Sequence[CLayer]) -> list[Tensor]:
    """Return the quantized input of every layer for a few test examples, of its first call."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, args[0].detach().clone())

        return hook

    handles = [model.get_submodule(each.stored.layer.name).register_forward_pre_hook(watch(each.stored.layer.name)) for each in layers]
    try:
        with torch.inference_mode():
            forward(model, take(bundle.task.test, EXAMPLES)[0][0])
    finally:
        for handle in handles:
            handle.remove()
    return [seen[each.stored.layer.name] for each in layers]


def _codes(layer: CLayer, example: Tensor) -> Integers:
    """Return the integers that one example's quantized input stands for, [channels, H, W] or [rows, channels]."""
    assert layer.stored.grid is not None
    scale, zero_point, _, _ = layer.stored.grid
    codes: Integers = np.rint(example.numpy().astype(np.float64) / scale).astype(np.int64) + zero_point - layer.offset
    return codes if layer.stored.layer.kernel else codes.reshape(-1, codes.shape[-1])


def _expected(module: nn.Module, layer: CLayer, codes: Integers) -> Integers:
    """Return torch's outputs [H, W, channels] for the same integers, in float64, which holds them exactly."""
    assert layer.stored.grid is not None
    values = torch.from_numpy(codes + layer.offset - layer.stored.grid[1]).double()
    parameters = {"weight": torch.from_numpy(layer.integers).double(), "bias": torch.from_numpy(layer.bias).double()}
    own = copy.deepcopy(module)
    own._forward_pre_hooks.clear()
    own._forward_pre_hooks_with_kwargs.clear()
    own.register_parameter("bias", nn.Parameter(torch.zeros(len(layer.bias))))
    with torch.inference_mode():
        found = functional_call(own, parameters, (values[None],))[0]
    moved = found.permute(1, 2, 0) if layer.stored.layer.kernel else found[:, None, :]
    integers: Integers = moved.numpy().round().astype(np.int64)
    return integers


def run_c(folder: Path, jobs: Sequence[tuple[int, Integers, tuple[int, ...]]]) -> list[Integers]:
    """Compile the headers in `folder` and run (layer, input codes, shape of the output) of every job.

    Raises:
        BitfrontError: there is no C compiler, or it or the program fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BitfrontError("no C compiler (cc, gcc, clang) to verify the header with; install one.")
    pieces = []
    for index, codes, (out_h, out_w, _) in jobs:
        pixels = codes.transpose(1, 2, 0) if codes.ndim == 3 else codes[:, None, :]
        pieces.append(np.array([index, *pixels.shape[:2], out_h, out_w], dtype="<i4").tobytes() + pixels.astype(np.int8).tobytes())
    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch, "main.c"), Path(scratch, "main")
        source.write_text(_MAIN, encoding="utf-8")
        flags = ["-O1", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{folder}"]
        for command, given in (([compiler, *flags, str(source), "-o", str(program)], b""), ([str(program)], b"".join(pieces))):
            done = subprocess.run(command, input=given, capture_output=True, check=False)
            if done.returncode:
                raise BitfrontError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace').strip()[:500]}")
    values, found, position = np.frombuffer(done.stdout, dtype="<i4"), [], 0
    for _, _, shape in jobs:
        count = int(np.prod(shape))
        found.append(values[position : position + count].reshape(shape).astype(np.int64))
        position += count
    return found
