"""The compiled loops: sums have the same bits compiled now and read from numba's cache."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CODE = """
import numpy as np
from numpy import float32 as f
from quant_core.clipping import kernels as clipping
from quant_core.qat import kernels

for size in (1023, 1024, 1152, 5000, 8192):
    draw = np.random.default_rng(size).standard_normal
    x, gradient = draw(size).astype(f), draw(size).astype(f)
    out, scale, ends = np.empty_like(x), np.empty(1, f), np.empty((1, 2), f)
    sums = kernels.step_backward(x, gradient, f(3.3), f(-8), f(7), out), kernels.clip_backward(x, gradient, f(0.7), out)
    clipping.mse_symmetric(x.reshape(1, -1), 0, 1, None, -8.0, 7.0, np.linspace(0.3, 1.0, 9), scale)
    clipping.octav(x.reshape(1, -1), 0, 1, None, 4.0**-4, True, ends)
    print(*(float(value).hex() for value in (*sums, *scale, *ends[0])))
"""


def test_sums_do_not_depend_on_whether_the_process_compiled_them(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    compiled, cached = (
        subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert any(tmp_path.rglob("kernels.step_backward-*.nbi"))
    assert len(compiled.splitlines()) == 5
    assert cached == compiled
