"""Which parameters take part in matrix products, along which axis, and how many multiply-accumulates each product takes.

It is read off the tensor operations below autograd, so that it holds for any module's forward pass: views of a parameter (one expert of a
stack) are recognized by their place in its storage, copies (a gather of experts, a cast) by the operations that made them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from quant_core.network.dispatch import RecordingMode
from quant_core.network.recorder import storage_address

_COPIES: tuple[str, ...] = ("clone", "_to_copy", "index", "index_select", "slice", "select", "detach", "alias")
_COPIES += ("view", "_unsafe_view", "_reshape_copy", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze")


KERNEL, TRANSPOSED_KERNEL = -2, -3
"""In place of an axis: all axes but the first (the second) are summed over."""


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product with a parameter.

    Attributes:
        parameter: name of the parameter.
        macs: multiply-accumulates.
        axis: of the parameter, the one that is summed over; of a convolution's kernel, `KERNEL` or `TRANSPOSED_KERNEL`.
        rows: how many times the parameter's matrix, or one of its stack, was applied to a row.
    """

    parameter: str
    macs: int
    axis: int
    rows: int


@dataclass(frozen=True, slots=True)
class _Origin:
    """The parameter that a tensor is a part or a copy of."""

    name: str
    parameter: Tensor


class ProductRecorder(RecordingMode):
    """Calls `observe` with every matrix product of one of `parameters` within its block.

    A product of two parameters is none of either: a learned query that a layer reads is an input, no weight.

    Args:
        parameters: name -> parameter of two or more axes.
        constants: all parameters of the network.
        observe: takes each product in turn.
    """

    def __init__(self, parameters: Mapping[str, Tensor], constants: Iterable[Tensor], observe: Callable[[Product], None]) -> None:
        super().__init__()
        self._constants = {storage_address(constant) for constant in constants}
        self._stored: dict[int, list[tuple[int, int, _Origin]]] = {}
        for name, parameter in parameters.items():
            start = int(parameter.storage_offset())
            extent = (start, start + parameter.numel(), _Origin(name, parameter))
            self._stored.setdefault(storage_address(parameter), []).append(extent)
        self._copies: dict[int, _Origin] = {}
        self._kept: list[Tensor] = []  # so that the addresses of copies stay theirs
        self._observe = observe

    def __torch_dispatch__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.").removeprefix("transformers.").split(".")[0]
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if name in _COPIES:
            self._follow(tensors, results)
            return results
        if name == "convolution":
            self._convolved(args, results)
            return results
        operands = _operands(name, tensors)
        if operands is None:
            return results
        for side, tensor in enumerate(operands):
            origin, other = self._origin(tensor), storage_address(operands[1 - side])
            if origin is not None and other not in self._constants and other not in self._copies:
                self._observe(_product(origin, tensor, side, operands, results))
        return results

    def _convolved(self, args: Any, results: Tensor) -> None:
        """Tell of a convolution (input, kernel, bias, stride, padding, dilation, transposed, ...) whose kernel is a parameter."""
        inputs, kernel, transposed = args[0], args[1], bool(args[6])
        origin = self._origin(kernel)
        if origin is None or storage_address(inputs) in self._constants or storage_address(inputs) in self._copies:
            return
        fan, positions = kernel.numel() // kernel.shape[0], (inputs if transposed else results)
        rows = positions.numel() // positions.shape[1]
        macs = positions.numel() * fan
        axis = KERNEL if not transposed else TRANSPOSED_KERNEL
        if origin.parameter.dim() == 2:  # a depthwise kernel [channels, taps] that is seen as [channels, 1, taps]
            axis = 1
        self._observe(Product(origin.name, macs, axis, rows))

    def _origin(self, tensor: Tensor) -> _Origin | None:
        address = storage_address(tensor)
        for start, end, origin in self._stored.get(address, ()):
            if start <= tensor.storage_offset() < end:
                return origin
        return self._copies.get(address)

    def _follow(self, tensors: list[Tensor], results: Any) -> None:
        origin = next((origin for tensor in tensors if (origin := self._origin(tensor)) is not None), None)
        if origin is None:
            return
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.is_floating_point() and storage_address(result) not in self._stored:
                self._copies[storage_address(result)] = origin
                self._kept.append(result)


def _operands(name: str, tensors: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Return the two factors of a matrix product [..., M, K] and [..., K, N]; None of any other operation."""
    if name in ("mm", "bmm", "mv", "dot", "_grouped_mm", "_scaled_grouped_mm", "grouped_mm_fallback") and len(tensors) >= 2:
        return tensors[0], tensors[1]
    if name in ("addmm", "baddbmm", "addmv", "addbmm") and len(tensors) >= 3:
        return tensors[1], tensors[2]
    return None


def _product(origin: _Origin, tensor: Tensor, side: int, operands: tuple[Tensor, Tensor], results: Tensor) -> Product:
    size = operands[0].shape[-1]  # K, on the last axis of the first factor
    macs = results.numel() * size
    along = tensor.dim() - 1 if side == 0 else max(tensor.dim() - 2, 0)
    axis = _axis_of(origin.parameter, tensor, along)
    outputs = max(tensor.numel() // math.prod(tensor.shape[:-2]) // size, 1)
    return Product(origin.name, macs, axis, macs // (size * outputs))


def _axis_of(parameter: Tensor, tensor: Tensor, along: int) -> int:
    """Return the axis of a parameter that axis `along` of its part or copy is: by their strides, else by their sizes, else the last."""
    size, stride = tensor.shape[along], tensor.stride(along)
    axes = [axis for axis in range(parameter.dim()) if parameter.shape[axis] == size]
    exact = [axis for axis in axes if parameter.stride(axis) == stride]
    return (exact or axes[-1:] or [parameter.dim() - 1])[-1]
