"""An evaluator as it goes into the object store: the memory of every tensor once, whatever shares it."""

import io
import pickle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.storage import TypedStorage

Memory = NDArray[np.uint8]


class Shipment:
    """Pickles as `content` does, and comes out of a pickle as the content itself.

    Pickle writes the memory of a tensor once per tensor: weights that the task, the engine's network and its float copies share would go
    into the object store several times. Here tensors refer to a list of arrays, which Ray keeps outside of the pickle.

    Args:
        content: its tensors are on the CPU.

    Attributes:
        nbytes: bytes of the pickle and the arrays.
    """

    def __init__(self, content: object) -> None:
        from ray import cloudpickle  # the engine's hooks are closures, which pickle does not take

        memories: dict[int, Memory] = {}
        places: dict[int, int] = {}

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            def persistent_id(self, part: object) -> tuple[int, torch.dtype] | None:
                """Return the place of a storage in the list, with its type."""
                if not isinstance(part, TypedStorage):
                    return None
                untyped = part._untyped_storage
                if untyped.device.type != "cpu" or not untyped.nbytes():
                    return None
                address = untyped.data_ptr()
                if address not in places:
                    places[address] = len(places)
                    memories[address] = torch.empty(0, dtype=torch.uint8).set_(untyped).numpy()
                return places[address], part.dtype

        buffer = io.BytesIO()
        Pickler(buffer).dump(content)
        self._pickled, self._memories = buffer.getvalue(), [*memories.values()]
        self.nbytes = len(self._pickled) + sum(memory.nbytes for memory in self._memories)

    def __reduce__(self) -> tuple[Any, ...]:
        """Come out as the content."""
        return _unpacked, (self._pickled, self._memories)


class _Unpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes, memories: list[Memory]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._storages = [torch.from_numpy(memory.copy()).untyped_storage() for memory in memories]

    def persistent_load(self, place: tuple[int, torch.dtype]) -> TypedStorage:
        """Return a storage; the memory in the object store must not be written to, so it is a copy."""
        index, dtype = place
        return TypedStorage(wrap_storage=self._storages[index], dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def _unpacked(pickled: bytes, memories: list[Memory]) -> object:
    return _Unpickler(pickled, memories).load()
