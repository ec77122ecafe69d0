"""The dataflow between modules, taken by running one example under a dispatch mode, never by torch.fx.

Data-dependent control flow is no obstacle; what the example does not reach is not there.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quant_core.network.forward import first_input
from quant_core.network.recorder import Operation, TensorRecorder, storage_address


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
    """The operations of one run. A value is one state of one activation's storage; values are numbered.

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


class _Values:
    """Numbers the states of each storage while operations run."""

    def __init__(self) -> None:
        self.flow = Dataflow()
        self.owners: list[str] = []
        self._values: dict[int, int] = {}
        self._numbers = itertools.count()

    def at(self, address: int) -> int:
        """Return the number of the present state of the storage there."""
        if address not in self._values:
            self._values[address] = next(self._numbers)
        return self._values[address]

    def observe(self, operation: Operation) -> None:
        reads = frozenset(self.at(address) for address in operation.addresses)
        writes = -1
        for tensor in operation.writes:
            address = storage_address(tensor)
            if operation.name.endswith("_") and address in operation.addresses:
                del self._values[address]
            number = self.at(address)
            writes = number if writes < 0 else writes  # of several results (a norm with its statistics) the first one
        self.flow.events.append(Event(operation.name, self.owners[-1] if self.owners else "", reads, writes))


def record(model: nn.Module, watched: dict[str, nn.Module], run: Callable[[], Any]) -> Dataflow:
    """Call `run` (a forward pass of `model` on one example) and return its dataflow around the `watched` modules."""
    values = _Values()
    recorder = TensorRecorder([*model.parameters(), *model.buffers()], values.observe)
    starts: list[int] = []

    def number(tensor: Tensor) -> int:
        recorder.hold(tensor)
        return values.at(storage_address(tensor))

    def before(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            starts.append(number(first_input(args, kwargs)))
            values.owners.append(name)

        return hook

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            values.owners.pop()
            values.flow.calls.setdefault(name, []).append(Call(starts.pop(), number(output), output.dim()))

        return hook

    handles = [module.register_forward_pre_hook(before(name), with_kwargs=True) for name, module in watched.items()]
    handles += [module.register_forward_hook(after(name)) for name, module in watched.items()]
    try:
        with torch.no_grad(), recorder:
            outputs = run()
    finally:
        for handle in handles:
            handle.remove()
    values.flow.outputs = frozenset(number(leaf) for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
    return values.flow
