"""Layers of the size that real networks have are evaluated and exported in bounded memory; a process of its own tells its peak."""

import subprocess
import sys

import pytest

LIMIT_MIB = 4096
NETWORKS = {
    "conv": ("nn.Sequential(nn.Conv2d(1024, 256, 8), nn.Flatten(), nn.Linear(256, 10))", "torch.randn(4, 1024, 8, 8)"),  # K = 65,536
    "head": ("nn.Sequential(nn.Linear(64, 896), nn.ReLU(), nn.Linear(896, 151_936))", "torch.randn(4, 64)"),
}
PROGRAM = """
import resource, sys, tempfile
from pathlib import Path
import torch
from torch import nn
import bitfront
torch.manual_seed(0)
model, x = ({model}).eval(), {inputs}
split = [(x, torch.randint(0, 10, (4,)))]
task = bitfront.Task(model, train=split, calib=split, valid=split, test=split)
sweep = bitfront.sweep(task, weight=["int4:channel"], activation="int8:tensor", device="counts", searcher="random", trials=1, record=None,
    log="none", threads=1, options={{"evaluate": {{"cache_mib": 256}}}})
with tempfile.TemporaryDirectory() as folder:
    sweep.export(0, Path(folder) / "out", {formats})
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units")
@pytest.mark.parametrize(("network", "formats"), [("conv", ["safetensors", "onnx"]), ("head", ["safetensors", "onnx"])])
def test_a_large_layer_is_evaluated_and_exported_within_four_gigabytes(network: str, formats: list[str]) -> None:
    model, inputs = NETWORKS[network]
    program = PROGRAM.format(model=model, inputs=inputs, formats=formats)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert int(finished.stdout.split()[-1]) < LIMIT_MIB
