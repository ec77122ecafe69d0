"""What the processes of `tests/forked.py` have imported: the runtimes that are installed, and what a sweep and its record need."""

import contextlib
import importlib
import sys

import torch

from quant_core.codecs.quantize import fake_quantize
from quant_core.spec.quant_spec import parse

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # nothing is sent to its vendor
RUNTIMES = ("onnxruntime", "openvino", "ai_edge_litert.interpreter", "torch.export", "torchao.quantization")
TRANSFORMERS = ("transformers.modeling_utils", "compressed_tensors.quantization")
SWEEPS = ("search.cli.sweep", "search.sweeps.run", "search.sweeps.local", "search.tracking.opening", "search.report.publish")
RECORDS = ("mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.store.tracking.sqlalchemy_store", "search.cli.front_table")
for name in (*RUNTIMES, *TRANSFORMERS, *SWEEPS, *RECORDS):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
fake_quantize(torch.ones(2, 2), parse("int8:channel"))  # numba reads its tables of types when a loop runs first
