"""Which module reads what another one writes: found by running one example under a dispatch mode, never by torch.fx.

Data-dependent control flow is no obstacle; what the example does not reach is not there.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True)
class Event:
    """One tensor operation: its name, the watched module that it runs in ("" for none), the values it reads and the value it writes."""

    op: str
    owner: str
    reads: frozenset[int]
    writes: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a watched module: the value it reads, the value it writes, and the number of axes of its output."""

    read: int
    write: int
    axes: int


@dataclass
class Dataflow:
    """What one run did. A value is one state of one activation's storage; values are numbered.

    Attributes:
        events: tensor operations in order.
        calls: watched module -> its calls.
        outputs: values that the network returns.
    """

    events: list[Event] = field(default_factory=list)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    outputs: frozenset[int] = frozenset()

    def readers(self, value: int) -> list[Event]:
        """Return the operations that read `value`."""
        return [event for event in self.events if value in event.reads]

    def sole_reader(self, value: int) -> str:
        """Return the one watched module that reads `value` as its input, if nothing else does, else ""."""
        owners = {event.owner for event in self.readers(value)}
        if len(owners) != 1 or value in self.outputs:
            return ""
        (owner,) = owners
        return owner if owner and self.calls[owner] and all(call.read == value for call in self.calls[owner]) else ""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers the states of each storage. Holds on to tensors, so that addresses stay unique."""

    def __init__(self, constants: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Dataflow()
        self.owners: list[str] = []
        self._values: dict[int, int] = {}
        self._numbers = itertools.count()
        self._constants = {_address(tensor) for tensor in constants}
        self._held: list[Tensor] = []

    def value(self, tensor: Tensor) -> int:
        """Return the number of a tensor's present state."""
        self._held.append(tensor)
        address = _address(tensor)
        if address not in self._values:
            self._values[address] = next(self._numbers)
        return self._values[address]

    def __torch_dispatch__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and _address(leaf) not in self._constants]
        reads = frozenset(self.value(tensor) for tensor in read)
        addresses = {_address(tensor) for tensor in read}
        results = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.").split(".")[0]
        writes = -1
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor) and _address(tensor) not in self._constants:
                if name.endswith("_") and _address(tensor) in addresses:
                    del self._values[_address(tensor)]
                writes = self.value(tensor)
        self.flow.events.append(Event(name, self.owners[-1] if self.owners else "", reads, writes))
        return results


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def record(model: nn.Module, watched: dict[str, nn.Module], run: Callable[[], Any]) -> Dataflow:
    """Call `run` (a forward pass of `model` on one example) and return what it did around the `watched` modules."""
    recorder = _Recorder([*model.parameters(), *model.buffers()])
    starts: list[int] = []

    def before(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            starts.append(recorder.value(args[0] if args else next(iter(kwargs.values()))))
            recorder.owners.append(name)

        return hook

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            recorder.owners.pop()
            recorder.flow.calls.setdefault(name, []).append(Call(starts.pop(), recorder.value(output), output.dim()))

        return hook

    handles = [module.register_forward_pre_hook(before(name), with_kwargs=True) for name, module in watched.items()]
    handles += [module.register_forward_hook(after(name)) for name, module in watched.items()]
    try:
        with torch.no_grad(), recorder:
            outputs = run()
    finally:
        for handle in handles:
            handle.remove()
    recorder.flow.outputs = frozenset(recorder.value(leaf) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
    return recorder.flow
