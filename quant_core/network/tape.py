"""A forward pass written down as a list of calls that can be run again, whole or in part, with gradients.

Calls are taken by a torch function mode, above autograd and never by torch.fx; a call of a watched module is one of them. Sizes and choices
that Python made are those of the recorded run: a tape holds for inputs of its shapes, and whoever uses it compares it with the network.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from quant_core.network.forward import call, placed_inputs
from quant_core.network.outputs import judged_output

_MARK = "_bitfront_value"
Values = dict[int, Any]
"""Number -> tensor."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the recorded run, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Node:
    """One call.

    Attributes:
        function: what is called.
        args, kwargs: its arguments, a `Value` where a tensor of the run stands.
        reads, writes: numbers of tensors; one that is changed in place keeps its number and is both.
        module: name of the watched module that is called, or "".
    """

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    module: str = ""

    @property
    def in_place(self) -> bool:
        """Whether it may change a tensor that it reads."""
        name = getattr(self.function, "__name__", "")
        changes = (name.endswith("_") and not name.endswith("__")) or name in (
            "__setitem__",
            "__iadd__",
            "__isub__",
            "__imul__",
            "__itruediv__",
        )
        return changes or not {*self.reads}.isdisjoint(self.writes)


@dataclass
class Tape:
    """The calls of one run.

    Attributes:
        nodes: in order.
        inputs: numbers of the tensors of the batch, in the order of its leaves.
        output: number of the tensor that the network is judged by.
    """

    nodes: list[Node] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    output: int = -1

    def bound(self, inputs: Any) -> Values:
        """Return the tensors of a batch by their numbers."""
        leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        return dict(zip(self.inputs, leaves, strict=True))


def run(nodes: Sequence[Node], values: Values) -> None:
    """Call `nodes` one after the other; `values` holds what they read and takes what they write."""
    for node in nodes:
        args, kwargs = tree_map(lambda leaf: values[leaf.number] if isinstance(leaf, Value) else leaf, (node.args, node.kwargs))
        result = node.function(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for number, tensor in zip(node.writes, tensors, strict=True):
            values[number] = tensor


def record_tape(model: nn.Module, watched: Mapping[str, nn.Module], inputs: Any) -> Tape:
    """Run `model` on a batch without gradients and return its calls; what a watched module does inside is one call of it.

    Raises:
        BitfrontError: the network returns nothing that is judged.
        ValueError: the output that is judged was made where no call is seen.
    """
    recorder = _Recorder()
    inputs = placed_inputs(model, inputs)
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            recorder.tape.inputs.append(recorder.number(leaf))
    with torch.no_grad(), recorder.watching(watched), recorder:
        output = judged_output(model, call(model, inputs))
    number = recorder.find(output)
    if number is None:
        raise ValueError("the output is not made by calls that a torch function mode sees")
    recorder.tape.output = number
    return recorder.tape


class _Recorder(TorchFunctionMode):
    """Writes every call that gives a tensor to `tape`. Numbers stand on the tensors themselves, so that none is kept alive."""

    def __init__(self) -> None:
        super().__init__()
        self.tape = Tape()
        self._count, self._token, self._depth = 0, object(), 0

    def number(self, tensor: Tensor) -> int:
        """Give `tensor` a number, unless it has one."""
        number = self.find(tensor)
        if number is None:
            number, self._count = self._count, self._count + 1
            setattr(tensor, _MARK, (self._token, number))
        return number

    def find(self, tensor: Tensor) -> int | None:
        """Return the number of `tensor` in this run."""
        token, number = tensor.__dict__.get(_MARK, (None, -1))
        return number if token is self._token else None

    def __torch_function__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._depth:
            return func(*args, **kwargs)
        marked = self._marked((args, kwargs))
        result = func(*args, **kwargs)
        self._write(func, marked, result)
        return result

    @contextmanager
    def watching(self, watched: Mapping[str, nn.Module]) -> Iterator[None]:
        """Write calls of the watched modules as one call each within the block."""
        pending: list[Any] = []
        handles = []
        for name, module in watched.items():
            handles.append(module.register_forward_pre_hook(self._before(pending), with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(self._after(pending, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, pending: list[Any]) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            pending.append(None if self._depth else self._marked((args, kwargs)))
            self._depth += 1

        return hook

    def _after(self, pending: list[Any], name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            self._depth -= 1
            marked = pending.pop()
            if marked is not None:
                self._write(module, marked, output, name)

        return hook

    def _marked(self, tree: Any) -> Any:
        """Return arguments with a `Value` in the place of every tensor of the run."""

        def marked(leaf: Any) -> Any:
            number = self.find(leaf) if isinstance(leaf, Tensor) else None
            return leaf if number is None else Value(number)

        return tree_map(marked, tree)

    def _write(self, function: Callable[..., Any], marked: Any, result: Any, module: str = "") -> None:
        reads = tuple(leaf.number for leaf in tree_leaves(marked) if isinstance(leaf, Value))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if tensors or getattr(function, "__name__", "") == "__setitem__":
            args, kwargs = marked
            self.tape.nodes.append(Node(function, args, kwargs, reads, tuple(map(self.number, tensors)), module))
