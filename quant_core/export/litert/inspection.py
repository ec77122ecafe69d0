"""A written file of LiteRT, read back: the types that it stores, and the kernels by which it computes its layers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quant_core.export.kernels import Kernels, LayerKernel
from quant_core.export.litert import library, storage
from quant_core.export.litert.flatbuffer import Model, Operation, Tensor, read
from quant_core.export.replay import replayed
from quant_core.export.stored import StoredLayer
from quant_core.util.errors import BitfrontError
from quant_core.util.text import first_fault

_KINDS = {
    "CONV_2D": ("conv", 1),
    "DEPTHWISE_CONV_2D": ("conv", 1),
    "TRANSPOSE_CONV": ("conv", 1),
    "FULLY_CONNECTED": ("linear", 1),
    "EMBEDDING_LOOKUP": ("embedding", 1),
    "GATHER": ("embedding", 0),
}
"""Operations with weights, and the place of the weight among their inputs."""
WEIGHT = ".weight"


def stored_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    """Return the types of the quantized weights of a file with how many layers have them, as `int4 x 3, int8 x 1`.

    Raises:
        BitfrontError: the codes or scales of a layer are missing, or are not those of its policy, or have another type than is due.
    """
    tensors = {tensor.name: tensor for tensor in read(path).tensors if tensor.data is not None}
    counts, faults, shared = Counter[str](), [], storage.shared_owners(stored)
    for layer in stored:
        if layer.encoded is None:
            continue
        spec = layer.policy.weight
        if storage.refusal(layer.layer, spec):
            counts["fp32"] += 1
            continue
        due = storage.stored_weight(layer, shared=layer.owner in shared)
        held = next((tensors[name] for name in (f"{layer.layer.name}{WEIGHT}", f"{layer.owner}{WEIGHT}") if name in tensors), None)
        kind = "" if held is None else held.kind
        if held is None:
            faults.append(f"layer {layer.layer.name!r}: its codes are not in the file")
        elif kind != due.kind:
            faults.append(f"layer {layer.layer.name!r}: {spec} is stored as {kind.lower()}, {due.kind.lower()} is due")
        elif not _same(held, due):
            faults.append(f"layer {layer.layer.name!r}: the codes or scales in {kind.lower()} are not those of {spec}")
        counts[kind.lower()] += 1
    if faults:
        raise BitfrontError(f"{first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(counts.items())) or "fp32"


def _same(held: Tensor, due: storage.StoredWeight) -> bool:
    """Tell whether a tensor has the codes and scales that are due."""
    if held.data is None or held.scale is None:
        return False
    return np.array_equal(held.data, due.data) and np.array_equal(held.scale, due.scale)


def kernels(path: Path, names: Sequence[str]) -> Kernels:
    """Return the kernels by which a file's layers are computed.

    Args:
        path: the file.
        names: of the layers in network order; the operations are theirs in this order, where there are as many, else by their weights.
    """
    model, rows, weights = read(path), list[LayerKernel](), set[tuple[str, int]]()
    dequantized = {operation.outputs[0]: operation.inputs[0] for operation in model.operations if operation.code == "DEQUANTIZE"}
    for operation in model.operations:
        if operation.code not in _KINDS:
            continue
        kind, place = _KINDS[operation.code]
        weight = operation.inputs[place]
        stored = model.tensors[dequantized.get(weight, weight)]
        if stored.data is None or len(stored.shape) < 2 or (kind, weight) in weights:
            continue  # a product of two activations, or a layer that is called again
        weights.add((kind, weight))
        rows.append(LayerKernel(stored.name.removesuffix(WEIGHT), kind, _kernel(model, operation, weight)))
    if len(rows) == len(names):
        rows = [LayerKernel(name, row.kind, row.kernel) for name, row in zip(names, rows, strict=True)]
    return Kernels.of(rows)


def _kernel(model: Model, operation: Operation, weight: int) -> str:
    kind = model.tensors[weight].kind
    if not kind.startswith("INT"):
        return "float32"
    return "int8" if model.tensors[operation.outputs[0]].kind == "INT8" else f"{kind[3:]}-bit weights"


def outputs(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the first output of a file on one example, run in a fresh process.

    Raises:
        BitfrontError: LiteRT does not run it.
    """
    library("interpreter")
    with replayed(path, list(arrays), runtime="litert") as replay:
        values: NDArray[Any] = replay([torch.from_numpy(array) for array in arrays.values()]).numpy()
    return values
