"""Which layers make and which read channels that can be mapped (scaled, rotated) without a change of the network's outputs.

It is proved operation by operation on one example, below autograd: an operation keeps a map if, given mapped inputs, it returns the mapped
result, or the same one. No name of an operation or of an architecture is looked at. Where it does neither, nothing that it reads can be
mapped.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from quant_core.network.forward import first_example, first_input, forward
from quant_core.network.recorder import storage_address
from quant_core.transforms.streams import Source, State, Stream, Streams

TOLERANCE = 1e-4
"""Of the largest value of a result: what float32 leaves; an operation that does not keep a map is off by the values' own size."""


def find_streams(
    model: nn.Module,
    example: Any,
    *,
    layers: Mapping[str, nn.Module],
    readers: Collection[str],
    opaque: Mapping[str, nn.Module],
    source: Callable[[str, Tensor], Source | None],
    constants: Mapping[str, Tensor],
) -> list[Stream]:
    """Run `model` on the first of `example` and return its streams, broken ones with their reason.

    Args:
        model: in eval mode.
        example: a batch of model inputs.
        layers: name -> module, the layers; their inputs are where streams end, and may be where streams start.
        readers: names of the layers at whose inputs a map can be undone.
        opaque: name -> module with one input and one output that count as one operation (norms).
        source: (name of a layer, opaque module or constant, its output or itself) -> the stream that starts there, or None.
        constants: name -> parameters and buffers that belong to none of these modules.
    """
    recorder = _Recorder(source, constants, readers)
    with ExitStack() as stack:
        for name, module in {**layers, **opaque}.items():
            stack.callback(module.register_forward_pre_hook(recorder.before(name, name in layers), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(recorder.after(name, name in layers), with_kwargs=True).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder)
        output = forward(model, first_example(example))
    recorder.end(output)
    return recorder.streams.settled()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries the states of tensors through a run."""

    def __init__(self, source: Callable[[str, Tensor], Source | None], constants: Mapping[str, Tensor], readers: Collection[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.streams = Streams()
        self._source, self._readers = source, readers
        self._constants = {storage_address(tensor): (name, tensor) for name, tensor in constants.items() if tensor.numel()}
        self._states: dict[Any, State | None] = {}
        self._storages: dict[int, set[int]] = {}
        self._versions: dict[int, int] = {}
        self._held: list[Any] = []
        self._depth, self._opaque = 0, list[bool]()
        self._started: dict[str, int] = {}

    def before(self, name: str, is_layer: bool) -> Callable[..., None]:
        """Return the hook before a module: what runs inside it is not looked at, where it is a layer or has one input."""

        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._depth and is_layer:
                self._read(name, first_input(args, kwargs))
            one = sum(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))) == 1
            self._opaque.append(is_layer or one)
            self._depth += self._opaque[-1]

        return hook

    def after(self, name: str, is_layer: bool) -> Callable[..., None]:
        """Return the hook after a module: the judgement of one that is no layer, and the stream that starts at its output."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not self._opaque.pop():
                return
            if self._depth == 1 and not is_layer:
                inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
                states = self._of(inputs)
                if states:
                    self._judge(name, module.forward, args, kwargs, inputs, states, output)
            self._depth -= 1
            if not self._depth and isinstance(output, Tensor):
                self._start(name, output)

        return hook

    def _read(self, name: str, x: Any) -> None:
        state = self._state(x) if isinstance(x, Tensor) else None
        if state is not None and (state.mask is not None or state.axis != x.dim() - 1 or name not in self._readers):
            self.streams.shatter([state.stream], f"{name} reads it, where the map cannot be undone")
            state = None
        self.streams.read(name, -1 if state is None else state.stream)

    def _start(self, name: str, output: Tensor) -> None:
        """Begin a stream at the output of a module; later calls of the module continue it."""
        source = self._source(name, output)
        if source is None:
            return
        if name not in self._started:
            self._started[name] = self.streams.new(name, source.map)
        axis, mask = source.axis % output.dim(), None
        if source.channels is not None:
            shape = [1] * output.dim()
            shape[axis] = -1
            mask = source.channels.to(output.device).reshape(shape).expand(output.shape)
        earlier = self._states.get(self._key(output))
        if earlier is not None:
            self.streams.shatter([earlier.stream, self._started[name]], f"{name} passes on what it reads")
        self._register(output, State(self._started[name], source.map, axis, mask))

    def _key(self, tensor: Tensor) -> Any:
        address = storage_address(tensor)
        return address, self._versions.get(address, 0), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()

    def _register(self, tensor: Tensor, state: State | None, streams: Collection[int] = ()) -> None:
        self._held.append(tensor)
        self._states[self._key(tensor)] = state
        touched = {state.stream} if state is not None else set(streams)
        self._storages.setdefault(storage_address(tensor), set()).update(touched)

    def _state(self, tensor: Tensor) -> State | None:
        """Return the state of a tensor; a view of a changing tensor that no operation made cannot be told."""
        if tensor.layout != torch.strided or not tensor.numel():
            return None
        key, address = self._key(tensor), storage_address(tensor)
        if key in self._states:
            state = self._states[key]
            return None if state is not None and self.streams.is_broken(state.stream) else state
        if address in self._constants:
            self._constant(tensor, *self._constants[address])
            return self._states.get(key)
        if address in self._storages:
            self.streams.shatter(self._storages[address], "it is written in place")
        return None

    def _constant(self, tensor: Tensor, name: str, constant: Tensor) -> None:
        source = self._source(name, constant) if tensor.shape == constant.shape and tensor.stride() == constant.stride() else None
        if source is None:
            return
        number = self._started.setdefault(name, -1)
        if number < 0:
            number = self._started[name] = self.streams.new(name, source.map)
        self._register(tensor, State(number, source.map, source.axis % tensor.dim()))

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._depth:
            return func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        states = self._of(inputs)
        if not func._schema.is_mutable:
            results = func(*args, **kwargs)
            if states:
                self._judge(str(func), func, args, kwargs, inputs, states, results)
            else:
                self._plain_views(results)
            return results
        before = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs)) if states else None
        written = [args[i] for i, a in enumerate(func._schema.arguments) if a.alias_info and a.alias_info.is_write and i < len(args)]
        results = func(*args, **kwargs)
        for tensor in tree_leaves(written):
            if isinstance(tensor, Tensor) and storage_address(tensor) in self._storages:
                self._versions[storage_address(tensor)] = self._versions.get(storage_address(tensor), 0) + 1
        if before is not None:
            clones = [leaf for leaf in tree_leaves(before) if isinstance(leaf, Tensor)]
            stated = {id(clone): states[id(tensor)] for clone, tensor in zip(clones, inputs, strict=True) if id(tensor) in states}
            self._judge(str(func), func, before[0], before[1], clones, stated, results)
        return results

    def _plain_views(self, results: Any) -> None:
        """Note views of the part of a tensor that is not mapped: they are not either."""
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.layout == torch.strided and storage_address(result) in self._storages:
                self._register(result, None)

    def _of(self, inputs: list[Tensor]) -> dict[int, State]:
        return {id(tensor): state for tensor in inputs if (state := self._state(tensor)) is not None}

    def _judge(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: Any,
        inputs: list[Tensor],
        states: dict[int, State],
        results: Any,
    ) -> None:
        """Run an operation on mapped inputs, and give its results their states, or break the streams."""
        streams = {state.stream for state in states.values()}
        mapped = {id(tensor): states[id(tensor)].mapped(tensor) if id(tensor) in states else tensor.clone() for tensor in inputs}
        new_args, new_kwargs = tree_map(lambda leaf: mapped.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        try:
            again = func(*new_args, **new_kwargs)
        except Exception:  # of shapes that only the original has: nothing is proved
            again = None
        outcomes = [_outcome(one, two, states) for one, two in zip(tree_leaves(results), tree_leaves(again), strict=False)]
        if again is None or not all(kept for kept, _ in outcomes):
            self.streams.shatter(streams, f"{name.removeprefix('aten.').split('.default')[0]} does not keep the map")
            return
        self.streams.join(streams)
        for result, (_, state) in zip(tree_leaves(results), outcomes, strict=True):
            if isinstance(result, Tensor) and result.layout == torch.strided and result.numel():
                self._register(result, state, streams)

    def end(self, output: Tensor) -> None:
        """Break the stream that the network returns."""
        state = self._state(output)
        if state is not None:
            self.streams.shatter([state.stream], "the network returns it")


def _outcome(result: Any, again: Any, states: Mapping[int, State]) -> tuple[bool, State | None]:
    """Return whether a result is the same or the mapped one, and its state."""
    if not isinstance(result, Tensor) or not isinstance(again, Tensor):
        return type(result) is type(again) and bool(result == again), None
    if result.shape != again.shape or not result.is_floating_point():
        return result.shape == again.shape and torch.equal(result, again), None
    finite = result.isfinite()
    limit = TOLERANCE * (float(result[finite].abs().amax()) if finite.any() else 1.0)
    same = _near(result, again, limit)
    if same.all():
        return True, None
    partly: tuple[bool, State | None] = (False, None)
    for state in {id(state.map): state for state in states.values()}.values():
        for axis in sorted(range(result.dim()), reverse=True):
            if not state.map.fits(result.shape[axis]):
                continue
            fits = _near(state.map.apply(result, axis), again, limit)
            if fits.all():
                return True, State(state.stream, state.map, axis)
            if not partly[0] and (fits | same).all():
                partly = True, State(state.stream, state.map, axis, fits & ~same)
    return partly


def _near(one: Tensor, other: Tensor, limit: float) -> Tensor:
    return ((one - other).abs() <= limit) | (one == other)
