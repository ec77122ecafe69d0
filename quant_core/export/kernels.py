"""The kernels by which onnxruntime computes the layers of a graph, read from the graph that it optimizes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from quant_core.export.integer_products import CONVOLUTION
from quant_core.util.errors import BitfrontError

_CONVOLUTIONS = {"QLinearConv", "ConvInteger", "Conv", "FusedConv", "ConvTranspose"}
_LINEARS = {"MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger", "QGemm", "MatMulNBits", "MatMul", "Gemm", "FusedMatMul", "FusedGemm"}
_INTEGER = ("QLinearConv", "ConvInteger", "MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger", "QGemm", "MatMulNBits")


@dataclass(frozen=True, slots=True)
class LayerKernel:
    """How a runtime computes one layer.

    Attributes:
        layer: its name.
        kind: conv, linear, or another word of the runtime.
        kernel: "int8" (integer products), "4-bit weights" (packed, unpacked as they are multiplied), "float32".
    """

    layer: str
    kind: str
    kernel: str


@dataclass(frozen=True)
class Kernels:
    """How many layers a runtime computes by integers.

    Attributes:
        convolutions, linears: (computed by integers, all). A linear layer is a product with constant weights.
        layers: of every layer, where the runtime tells them by name.
    """

    convolutions: tuple[int, int]
    linears: tuple[int, int]
    layers: tuple[LayerKernel, ...] = ()

    @classmethod
    def of(cls, layers: Sequence[LayerKernel]) -> "Kernels":
        """Return the counts of layers; packed weights count as integers, as onnxruntime's MatMulNBits does."""
        counts = [[row.kernel != "float32" for row in layers if row.kind == kind] for kind in ("conv", "linear")]
        return cls((sum(counts[0]), len(counts[0])), (sum(counts[1]), len(counts[1])), tuple(layers))

    @property
    def checks(self) -> dict[str, float | str]:
        """The counts under their names in a report; a kind that the network lacks is left out."""
        rows = {"integer_convolutions": self.convolutions, "integer_linears": self.linears}
        return {name: f"{integer} of {total}" for name, (integer, total) in rows.items() if total}

    @property
    def floats(self) -> int:
        """How many layers are computed in float."""
        return sum(total - integer for integer, total in (self.convolutions, self.linears))


def kernels(model: Path, *, fuse: bool = True, names: Sequence[str] = ()) -> Kernels:
    """Return the kernels of an ONNX file under onnxruntime's extended optimizations.

    Args:
        model: the file.
        fuse: with its fusion of quantized operators, as by default.
        names: of the layers in network order; the operations are theirs in this order, where there are as many.

    Raises:
        BitfrontError: onnxruntime does not take the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath, options.log_severity_level = str(path), 4
        if not fuse:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class
            raise BitfrontError(f"onnxruntime {onnxruntime.__version__} does not take the file: {error}") from error
        graph = onnx.load(path).graph
    operators = layer_operators(graph)
    words = [(kind, _kernel(node)) for node, kind in operators]
    counts = [[kernel != "float32" for other, kernel in words if other == kind] for kind in ("conv", "linear")]
    named = [LayerKernel(name, *word) for name, word in zip(names, words, strict=True)] if len(names) == len(words) else []
    return Kernels((sum(counts[0]), len(counts[0])), (sum(counts[1]), len(counts[1])), tuple(named))


def layer_operators(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, str]]:
    """Return the operations of an optimized graph that multiply by constant weights, each with "conv" or "linear"."""
    constants, operators = _constants(graph), []
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS or node.op_type in _LINEARS:
            place = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}.get(node.op_type, 1)
            convolution = node.op_type in _CONVOLUTIONS or node.name.startswith(CONVOLUTION)
            if node.input[place] in constants:
                operators.append((node, "conv" if convolution else "linear"))
    return operators


def _kernel(node: onnx.NodeProto) -> str:
    """Return int8, N-bit weights, or float32."""
    if node.op_type == "MatMulNBits":
        return f"{next(attribute.i for attribute in node.attribute if attribute.name == 'bits')}-bit weights"
    return "int8" if node.op_type in _INTEGER else "float32"


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Return the values that depend on constants alone: weights behind DequantizeLinear too."""
    names = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        if all(name in names for name in node.input):
            names |= set(node.output)
    return names
