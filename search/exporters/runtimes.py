"""The runtimes whose files are written, timed and probed: one entry of `RUNTIMES` per runtime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray
from torch import nn

from quant_core.export import nbits
from quant_core.export.kernels import Kernels
from quant_core.export.norms import norms_into_scales
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.export.tagging import input_names, tensor_leaves
from quant_core.network.forward import first_example
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.files import write_bytes
from quant_core.util.registry import resolve

RUNTIMES: dict[str, str] = {
    "onnxruntime": "search.exporters.runtimes:ONNXRUNTIME",
    "openvino": "search.exporters.runtimes:OPENVINO",
    "executorch": "search.exporters.runtimes:EXECUTORCH",
    "litert": "search.exporters.litert_runtime:LITERT",
    "torch": "search.exporters.torch_runtime:TORCH",
}
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Runtime:
    """A runtime: how its files are written, and how it computes them.

    Attributes:
        name: a key of `RUNTIMES`.
        package: that holds it, whose version is its own.
        require: imports it, or says what is missing.
        write: (network, folder) -> the file of a quantized network.
        write_float: (model, example, folder) -> the file of a float network.
        kernels: (file, names of the layers in network order) -> the kernels of the layers.
        node_seconds: (file, names, arrays, threads, repeats) -> (layer or "", seconds) of every operation, in the order of execution;
            none where the runtime has no profiler.
        outputs: (file, arrays) -> its output.
        refusal: (layer, its policy) -> why its files cannot hold it, or "".
        stored_types: (file, layers) -> the types of their codes in the file, with how many have them.
        beside: kinds of layers whose kernel depends on the inputs of the layers that read their output, too: whether these are quantized.
    """

    name: str
    package: str
    require: Callable[[], None]
    write: Callable[[Quantized, Path], Path]
    write_float: Callable[[nn.Module, Any, Path], Path]
    kernels: Callable[[Path, Sequence[str]], Kernels]
    node_seconds: Callable[[Path, Sequence[str], Arrays, int, int], list[tuple[str, float]]]
    outputs: Callable[[Path, Arrays], NDArray[Any]]
    stored_types: Callable[[Path, Sequence[StoredLayer]], str]
    refusal: Callable[[Layer, LayerPolicy], str]
    beside: frozenset[str] = frozenset()

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return metadata.version(self.package)


def runtime(name: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        InputError: there is none of that name, or it is not installed.
    """
    wanted = cast(Runtime, resolve(RUNTIMES, "runtime", name))
    wanted.require()
    return wanted


def example_arrays(example: Any) -> dict[str, NDArray[Any]]:
    """Return one example of a batch of model inputs, by name."""
    tensors = tensor_leaves(first_example(example))
    return {name: tensor.numpy() for name, tensor in zip(input_names(example), tensors, strict=True)}


def _no_library() -> None:
    """Onnxruntime is there with bitfront itself."""


def _write_onnx(network: Quantized, folder: Path) -> Path:
    """Write linear layers of float inputs as MatMulNBits where it holds any, everything else as QDQ."""
    from quant_core.export.graph import quantized_graph

    folded = norms_into_scales(network)
    products = any(layer.encoded is not None and not nbits.refusal(layer.layer, layer.policy) for layer in folded.stored)
    path = folder / "model.onnx"
    write_bytes(path, quantized_graph(folded, products=products).model.SerializeToString())
    return path


def _write_float_onnx(model: nn.Module, example: Any, folder: Path) -> Path:
    from quant_core.export.graph import float_graph

    path = folder / "float.onnx"
    write_bytes(path, float_graph(model, example).SerializeToString())
    return path


def _onnx_kernels(path: Path, names: Sequence[str]) -> Kernels:
    from quant_core.export.kernels import kernels

    return kernels(path, names=names)


def _onnx_seconds(path: Path, names: Sequence[str], arrays: Arrays, threads: int, repeats: int) -> list[tuple[str, float]]:
    from quant_core.export.node_times import node_seconds

    return node_seconds(path, names, arrays, threads, repeats)


def _onnx_outputs(path: Path, arrays: Arrays) -> NDArray[Any]:
    from quant_core.export.runtime import Session

    return Session(path, list(arrays)).arrays(arrays)


def _onnx_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    from quant_core.export.stored_types import stored_types

    return stored_types(path, stored)


def _onnx_refusal(layer: Layer, policy: LayerPolicy) -> str:
    from quant_core.export.graph import refusals

    return "; ".join(refusals(layer, policy))


def _openvino_library() -> None:
    from quant_core.export.openvino import library

    library()


def _write_openvino(network: Quantized, folder: Path) -> Path:
    from quant_core.export.openvino.model import representation

    path = folder / "model.xml"
    representation(norms_into_scales(network)).save(path)
    return path


def _write_float_openvino(model: nn.Module, example: Any, folder: Path) -> Path:
    from quant_core.export.openvino.model import float_representation

    path = folder / "float.xml"
    float_representation(model, example).save(path)
    return path


def _openvino_kernels(path: Path, names: Sequence[str]) -> Kernels:
    from quant_core.export.openvino.inspection import kernels

    return kernels(path, names)


def _openvino_seconds(path: Path, names: Sequence[str], arrays: Arrays, threads: int, repeats: int) -> list[tuple[str, float]]:
    from quant_core.export.openvino.inspection import node_seconds

    return node_seconds(path, names, arrays, threads, repeats)


def _openvino_outputs(path: Path, arrays: Arrays) -> NDArray[Any]:
    from quant_core.export.openvino.inspection import compiled

    outputs: NDArray[Any] = compiled(path)(dict(arrays))[0]
    return outputs


def _openvino_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    from quant_core.export.openvino.inspection import stored_types

    return stored_types(path, stored)


def _openvino_refusal(layer: Layer, policy: LayerPolicy) -> str:
    from quant_core.export.openvino.model import refusals

    return "; ".join(refusals(layer, policy))


def _executorch_library() -> None:
    from quant_core.export.executorch import register

    register()


def _write_executorch(network: Quantized, folder: Path) -> Path:
    from quant_core.export.executorch.program import program

    path = folder / "model.pte"
    program(norms_into_scales(network), rounded=True).save(path)
    return path


def _write_float_executorch(model: nn.Module, example: Any, folder: Path) -> Path:
    from quant_core.export.executorch.program import float_program

    path = folder / "float.pte"
    float_program(model, example).save(path)
    return path


def _executorch_kernels(path: Path, names: Sequence[str]) -> Kernels:
    from quant_core.export.executorch.inspection import kernels

    return kernels(path, names)


def no_seconds(_path: Path, _names: Sequence[str], _arrays: Arrays, _threads: int, _repeats: int) -> list[tuple[str, float]]:
    """Return nothing: the wheels' XNNPACK is built without its profiler, and one call of it computes many layers."""
    return []


def _executorch_outputs(path: Path, arrays: Arrays) -> NDArray[Any]:
    from quant_core.export.executorch.inspection import outputs

    return outputs(path, arrays)


def _executorch_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    from quant_core.export.executorch.inspection import stored_types

    return stored_types(path, stored)


def _executorch_refusal(layer: Layer, policy: LayerPolicy) -> str:
    from quant_core.export.executorch.program import refusals

    return "; ".join(refusals(layer, policy, rounded=True))


ONNXRUNTIME = Runtime(
    "onnxruntime",
    "onnxruntime",
    _no_library,
    _write_onnx,
    _write_float_onnx,
    _onnx_kernels,
    _onnx_seconds,
    _onnx_outputs,
    _onnx_types,
    _onnx_refusal,
    beside=frozenset({"conv", "depthwise", "conv_transpose"}),
)
OPENVINO = Runtime(
    "openvino",
    "openvino",
    _openvino_library,
    _write_openvino,
    _write_float_openvino,
    _openvino_kernels,
    _openvino_seconds,
    _openvino_outputs,
    _openvino_types,
    _openvino_refusal,
)
EXECUTORCH = Runtime(
    "executorch",
    "executorch",
    _executorch_library,
    _write_executorch,
    _write_float_executorch,
    _executorch_kernels,
    no_seconds,
    _executorch_outputs,
    _executorch_types,
    _executorch_refusal,
)
