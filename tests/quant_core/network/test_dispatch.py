"""Recording modes: torch's compiler is not imported for them, and where it is there they run outside of compiled code."""

import subprocess
import sys

from torch import nn

from quant_core.network.recorder import Operation, TensorRecorder

TRACES = """
import sys, torch
from torch import nn
from quant_core.network.trace import trace
layers = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval(), torch.randn(1, 3, 8, 8))
print(len(list(layers)), "torch._dynamo" in sys.modules)
"""


def test_tracing_does_not_import_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", TRACES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_a_compiled_network_is_recorded_outside_of_its_graph() -> None:
    import torch._dynamo

    model = torch.compile(nn.Linear(4, 4), backend="eager")
    seen: list[Operation] = []
    with torch.no_grad(), TensorRecorder((), seen.append):
        model(torch.randn(2, 4))
    assert "addmm" in {operation.name for operation in seen}
