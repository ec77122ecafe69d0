"""One layer as a runnable: an onnxruntime session of one operator, or our own 1-bit kernel.

8-bit operators are the QLinear ones (they requantize their output, as a quantized network does); MatMulNBits is onnxruntime's product
of float activations with packed weights in groups of 32; weights are constants, so that they are packed before the clock runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from hw_models.measurements import Mode
from quant_core.kernels.packed_signs import conv2d_packed, pack_conv, pack_signs, xnor_gemm
from quant_core.spec.layer import Layer

Array = NDArray[Any]
Runnable = Callable[[], object]

FP32 = Mode("float", "float")
U8S8 = Mode("int8", "int8", "signed", "unsigned")
U8U8 = Mode("int8", "int8", "unsigned", "unsigned")
S8S8 = Mode("int8", "int8", "signed", "signed")
NBITS = tuple(Mode(f"int{bits}", "float") for bits in (8, 4, 2))
XNOR = Mode("binary", "binary")

GROUP = 32
_OPSET, _IR = 21, 10
_UNSUPPORTED = (errors.NotImplemented, errors.Fail, errors.RuntimeException)  # when a session is made; a run that fails is a bug
_DTYPES: dict[str, type[np.int8 | np.uint8]] = {"signed": np.int8, "unsigned": np.uint8}


@dataclass(frozen=True)
class _Graph:
    """Nodes from input `x` to output `y`, and the constants that they read."""

    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, Any]
    x: Array
    out_dtype: type[np.number[Any]]


def legal_modes(layer: Layer) -> tuple[Mode, ...]:
    """Return the modes in which a kind of layer can run here at all; onnxruntime may still lack a kernel for one."""
    if layer.kind == "linear":
        return (FP32, U8S8, U8U8, S8S8, *NBITS, XNOR)
    if layer.kind in ("conv", "depthwise"):
        binary = (XNOR,) if layer.kind == "conv" and layer.groups == 1 and len(layer.kernel) == 2 else ()
        return (FP32, U8S8, U8U8, S8S8, *binary)
    return (FP32, NBITS[0]) if layer.kind == "embedding" else (FP32,)


def runnable(layer: Layer, mode: Mode, batch: int, threads: int) -> Runnable | None:
    """Return a function that runs one call of a layer for a batch, or None where this onnxruntime has no kernel for the mode."""
    rng = np.random.default_rng(0)
    if mode == XNOR:
        return _binary(layer, batch, rng)
    graph = _graph(layer, mode, batch, rng)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    try:
        session = onnxruntime.InferenceSession(_model(graph), options, providers=["CPUExecutionProvider"])
    except _UNSUPPORTED:
        return None
    feed = {"x": graph.x}
    return lambda: session.run(None, feed)


def _model(graph: _Graph) -> bytes:
    kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for name, dtype in (("x", graph.x.dtype), ("y", graph.out_dtype))}
    inputs = [helper.make_tensor_value_info("x", kinds["x"], graph.x.shape)]
    outputs = [helper.make_tensor_value_info("y", kinds["y"], None)]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in graph.constants.items()]
    built = helper.make_graph(list(graph.nodes), "layer", inputs, outputs, constants)
    imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(built, opset_imports=imports, ir_version=_IR).SerializeToString()
    return data


def _graph(layer: Layer, mode: Mode, batch: int, rng: np.random.Generator) -> _Graph:
    if layer.kind == "embedding":
        return _embedding(layer, mode, batch, rng)
    if layer.kind == "linear":
        shape: tuple[int, ...] = (batch * int(np.prod(layer.in_size)), layer.in_channels)
        weight_shape: tuple[int, ...] = (layer.in_channels, layer.out_channels)
    else:
        shape, weight_shape = (batch, layer.in_channels, *layer.in_size), layer.weight_shape
    if mode in NBITS:
        return _nbits(layer, mode, shape, rng)
    if mode == FP32:
        operator = {"linear": "MatMul", "conv_transpose": "ConvTranspose"}.get(layer.kind, "Conv")
        node = helper.make_node(operator, ["x", "w"], ["y"], **_attributes(layer))
        return _Graph((node,), {"w": _floats(rng, weight_shape)}, _floats(rng, shape), np.float32)
    return _eight_bits(layer, mode, shape, weight_shape, rng)


def _eight_bits(layer: Layer, mode: Mode, shape: tuple[int, ...], weight_shape: tuple[int, ...], rng: np.random.Generator) -> _Graph:
    act, weight = _DTYPES[mode.activation_sign], _DTYPES[mode.weight_sign]
    scale = np.float32(0.02)
    zeros = {"x_zero": act(128 if act is np.uint8 else 0), "w_zero": weight(128 if weight is np.uint8 else 0)}
    constants = {"w": _bytes(rng, weight_shape, weight), "scale": scale, **zeros}
    operands = ["x", "scale", "x_zero", "w", "scale", "w_zero", "scale", "x_zero"]
    operator = "QLinearMatMul" if layer.kind == "linear" else "QLinearConv"
    node = helper.make_node(operator, operands, ["y"], **_attributes(layer))
    return _Graph((node,), constants, _bytes(rng, shape, act), act)


def _nbits(layer: Layer, mode: Mode, shape: tuple[int, ...], rng: np.random.Generator) -> _Graph:
    bits = int(mode.weight.removeprefix("int"))
    groups = -(-layer.in_channels // GROUP)
    packed = _bytes(rng, (layer.out_channels, groups, GROUP * bits // 8), np.uint8)
    scales = np.abs(_floats(rng, (layer.out_channels * groups,))) / 100
    sizes = {"K": layer.in_channels, "N": layer.out_channels, "bits": bits, "block_size": GROUP}
    node = helper.make_node("MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft", **sizes)
    return _Graph((node,), {"w": packed, "scales": scales}, _floats(rng, shape), np.float32)


def _embedding(layer: Layer, mode: Mode, batch: int, rng: np.random.Generator) -> _Graph:
    rows = rng.integers(layer.weight_shape[0], size=(batch, *layer.in_size), dtype=np.int64)
    if mode == FP32:
        return _Graph((helper.make_node("Gather", ["w", "x"], ["y"]),), {"w": _floats(rng, layer.weight_shape)}, rows, np.float32)
    nodes = (helper.make_node("Gather", ["w", "x"], ["found"]), helper.make_node("DequantizeLinear", ["found", "scale"], ["y"]))
    return _Graph(nodes, {"w": _bytes(rng, layer.weight_shape, np.int8), "scale": np.float32(0.02)}, rows, np.float32)


def _attributes(layer: Layer) -> dict[str, object]:
    if layer.kind == "linear":
        return {}
    plain = {"strides": layer.stride, "dilations": layer.dilation, "group": layer.groups}
    if layer.kind == "conv_transpose":
        return {**plain, "output_shape": layer.out_size}
    before, after = padding(layer)
    return {**plain, "pads": [*before, *after]}


def padding(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding before and after each axis that gives a convolution its output size."""
    total = [
        max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
        for out, stride, kernel, dilation, size in zip(
            layer.out_size, layer.stride, layer.kernel, layer.dilation, layer.in_size, strict=True
        )
    ]
    return tuple(size // 2 for size in total), tuple(size - size // 2 for size in total)


def _binary(layer: Layer, batch: int, rng: np.random.Generator) -> Runnable:
    """Return our 1-bit kernel: the packing of the input is part of a call, that of the weight is not."""
    if layer.kind == "linear":
        x = _floats(rng, (batch * int(np.prod(layer.in_size)), layer.in_channels))
        words = pack_signs(_floats(rng, (layer.out_channels, layer.in_channels)))
        return lambda: xnor_gemm(pack_signs(x), words, layer.in_channels)
    image = _floats(rng, (batch, layer.in_channels, *layer.in_size))
    packed = pack_conv(_floats(rng, layer.weight_shape))
    _, after = padding(layer)
    stride, dilation = (layer.stride[0], layer.stride[1]), (layer.dilation[0], layer.dilation[1])
    return lambda: conv2d_packed(image, packed, stride, (after[0], after[1]), dilation)


def _floats(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def _bytes(rng: np.random.Generator, shape: tuple[int, ...], dtype: type[np.int8 | np.uint8]) -> Array:
    low = -128 if dtype is np.int8 else 0
    values: Array = rng.integers(low, low + 256, size=shape, dtype=np.int64).astype(dtype)
    return values
