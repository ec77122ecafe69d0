"""What the processes of `tests/forked.py` have imported: the runtimes that are installed."""

import contextlib
import importlib
import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # nothing is sent to its vendor
for name in ("numpy", "onnxruntime", "openvino", "ai_edge_litert.interpreter", "torch.export", "torchao.quantization"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
