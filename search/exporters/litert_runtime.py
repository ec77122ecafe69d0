"""LiteRT as one of `search.exporters.runtimes.RUNTIMES`."""

from pathlib import Path
from typing import Any

from torch import nn

from quant_core.export.litert import PACKAGE, inspection, library
from quant_core.export.litert.program import float_program, program, refusals
from quant_core.export.norms import norms_into_scales
from quant_core.export.stored import Quantized
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from search.exporters.runtimes import Runtime, no_seconds


def _write(network: Quantized, folder: Path) -> Path:
    path = folder / "model.tflite"
    program(norms_into_scales(network)).save(path)
    return path


def _write_float(model: nn.Module, example: Any, folder: Path) -> Path:
    path = folder / "float.tflite"
    float_program(model, example).save(path)
    return path


def _refusal(layer: Layer, policy: LayerPolicy) -> str:
    return "; ".join(refusals(layer, policy))


def _library() -> None:
    library("interpreter")


LITERT = Runtime(
    "litert",
    PACKAGE,
    _library,
    _write,
    _write_float,
    inspection.kernels,
    no_seconds,
    inspection.outputs,
    inspection.stored_types,
    _refusal,
)
