"""Running an ONNX file with onnxruntime on the CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.tagging import tensor_leaves
from quant_core.util.errors import BitfrontError


class Session:
    """One onnxruntime session.

    Args:
        model: path of a file, or its bytes.
        names: names of the graph's inputs in the order of the tensors of a batch.
        threads: of one operator.
        fuse: let it fuse DequantizeLinear, operator and QuantizeLinear into integer operators, as it does by default.

    Raises:
        BitfrontError: onnxruntime does not take the file.
    """

    def __init__(self, model: Path | bytes, names: Sequence[str], threads: int = 1, *, fuse: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
        if not fuse:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class
            raise BitfrontError(f"onnxruntime {onnxruntime.__version__} does not take the file: {error}") from error
        self._names = list(names)
        self._input_names = {node.name for node in self._session.get_inputs()}

    def __call__(self, inputs: Any) -> Tensor:
        """Return the outputs of one batch of model inputs."""
        tensors = tensor_leaves(inputs)
        return torch.from_numpy(self.arrays({name: tensor.numpy() for name, tensor in zip(self._names, tensors, strict=True)}))

    def arrays(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the output for inputs by name.

        Raises:
            BitfrontError: an operator fails.
        """
        read = {name: value for name, value in inputs.items() if name in self._input_names}
        try:
            outputs: NDArray[Any] = self._session.run(None, read)[0]
        except Exception as error:  # its errors share no base class
            reason = str(error).partition("Status Message: ")[2] or str(error)
            raise BitfrontError(f"onnxruntime {onnxruntime.__version__} fails in a run: {reason.splitlines()[0].rstrip('.')}") from error
        return outputs


def read_model(path: Path) -> onnx.ModelProto:
    """Return an ONNX file as it is parsed by onnx."""
    return onnx.load(path)


def versions() -> dict[str, str]:
    """Return the versions of onnx and onnxruntime."""
    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
