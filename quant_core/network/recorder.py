"""Recording every tensor operation of a run, below autograd and the modules: one dispatch mode for all that ask what a network does."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from quant_core.network.dispatch import RecordingMode


def storage_address(tensor: Tensor) -> int:
    """Return where the storage of `tensor` lies: the same for a tensor and its views. A sparse tensor has none, and stands for itself."""
    return int(tensor.untyped_storage().data_ptr()) if tensor.layout == torch.strided else id(tensor)


@dataclass(frozen=True, slots=True)
class Operation:
    """One tensor operation, after it ran; constants are left out.

    Attributes:
        name: without its overload, as in `add_`.
        reads: its tensor arguments; `addresses` of their storages before it ran.
        writes: the tensors that it returned.
    """

    name: str
    reads: Sequence[Tensor]
    addresses: Sequence[int]
    writes: Sequence[Tensor]


class TensorRecorder(RecordingMode):
    """Calls `observe` with every operation within its block. Holds on to all tensors, so that the addresses of storages stay unique.

    Args:
        constants: tensors that are not looked at, such as parameters and buffers.
        observe: takes each operation in turn.
    """

    def __init__(self, constants: Iterable[Tensor], observe: Callable[[Operation], None]) -> None:
        super().__init__()
        self._constants = {storage_address(tensor) for tensor in constants}
        self._observe = observe
        self._held: list[Tensor] = []

    def hold(self, tensor: Tensor) -> None:
        """Keep `tensor` alive as long as the recorder."""
        self._held.append(tensor)

    def __torch_dispatch__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = self._tensors((args, kwargs))
        addresses = [storage_address(tensor) for tensor in reads]
        results = func(*args, **(kwargs or {}))
        writes = self._tensors(results)
        self._held += [*reads, *writes]
        self._observe(Operation(str(func).removeprefix("aten.").split(".")[0], reads, addresses, writes))
        return results

    def _tensors(self, tree: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and storage_address(leaf) not in self._constants]


def stored_at(tensor: Tensor) -> tuple[int, int, int]:
    """Return where a tensor's elements lie: equal for two tensors over the same stored elements, whatever their shapes and strides."""
    if not tensor.numel() or tensor.is_meta or tensor.layout != torch.strided:
        return id(tensor), 0, 0
    return storage_address(tensor), int(tensor.storage_offset()), tensor.numel()
