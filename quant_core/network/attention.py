"""Where a network computes attention: the tensors that are its keys and values, found by running one example, never by torch.fx.

Attention is torch's scaled_dot_product_attention, under whatever name it reaches the device, or a product of two activations, a softmax of
it (or an exponential), and a product of that with a third: transformers' `eager`, torch's MultiheadAttention that returns its weights, and
hand-written code. Keys are those that the queries meet: after the rotary embedding, and after grouped queries' keys are repeated.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from quant_core.network.forward import first_example, forward
from quant_core.network.recorder import Operation, TensorRecorder, storage_address
from quant_core.spec.kv_cache import Heads
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError
from quant_core.util.text import listed

FUSED = (
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
"""Operations of (query, key, value, ...), each [..., tokens, size of a head]."""
PRODUCTS = ("bmm", "baddbmm")
_SOFTMAX = ("_softmax", "_safe_softmax", "exp")
_WEIGHTED = ("mm", "addmm", "convolution", "native_layer_norm", *FUSED)
"""Operations whose results are no longer scores."""


@dataclass(frozen=True, slots=True)
class Operand:
    """A factor of a batched matrix product that is keys or values.

    Attributes:
        call: number of the product among those of two activations in one call of the module, from 0.
        side: 0 or 1, which of the two factors.
        axis: of the factor [heads, ...], -1 or -2, along which the row of a token lies.
    """

    call: int
    side: int
    axis: int


@dataclass(frozen=True)
class Attention:
    """Where one network computes attention.

    Attributes:
        modules: name -> the factors of its products that are keys or values; what its fused attention reads is always.
        heads: of every cached tensor how many heads it has, and their size. Heads of equal values are one: grouped queries share it.
    """

    modules: dict[str, tuple[Operand, ...]]
    heads: Heads


@dataclass
class _Frame:
    """One running call of a module."""

    name: str
    products: int = 0


@dataclass(frozen=True, slots=True)
class _Product:
    """A product, the calls that it ran in with its number in each, and its factors; `softened`: a softmax of its result was taken."""

    frames: tuple[tuple[_Frame, int], ...]
    factors: tuple[Tensor, Tensor]
    softened: bool = False


@dataclass
class _Finder:
    """Follows scores through one run; `constants` are addresses of parameters and buffers."""

    constants: frozenset[int]
    frames: list[_Frame] = field(default_factory=list)
    modules: dict[str, dict[Operand, None]] = field(default_factory=dict)
    heads: list[tuple[int, int]] = field(default_factory=list)
    fused: int = 0
    _scores: dict[int, _Product] = field(default_factory=dict)

    def observe(self, operation: Operation) -> None:
        """Take one operation."""
        if self.fused:
            return
        states = [self._scores.get(address) for address in operation.addresses]
        if operation.name in FUSED:
            self.attended(operation.reads[1], operation.reads[2])
        elif operation.name in PRODUCTS:
            self._multiplied(operation, states)
        elif operation.name not in _WEIGHTED:
            for state in [state for state in states if state is not None][:1]:
                self._passed(operation, state)

    def attended(self, keys: Tensor, values: Tensor) -> None:
        """Take a fused attention."""
        self.modules.setdefault(self.frames[-1].name, {})
        self.heads += [_heads(keys, -1), _heads(values, -1)]

    def _multiplied(self, operation: Operation, states: Sequence[_Product | None]) -> None:
        if self.constants & {*operation.addresses[-2:]}:  # a linear layer is such a product for some strides of its input
            return
        frames = tuple((frame, frame.products) for frame in self.frames)
        for frame in self.frames:
            frame.products += 1
        one, two = operation.reads[-2:]
        side, scores = next(((1 - k, state) for k, state in enumerate(states[-2:]) if state is not None and state.softened), (0, None))
        if scores is None:
            self._passed(operation, _Product(frames, (one, two)))
            return
        shared = [(frame, first, last) for (frame, first), (other, last) in zip(scores.frames, frames, strict=False) if frame is other]
        frame, first, last = shared[-1]
        keys, values = Operand(first, 1, -2), Operand(last, side, -2 + side)
        self.modules.setdefault(frame.name, {}).update({keys: None, values: None})
        self.heads += [_heads(scores.factors[keys.side], keys.axis), _heads((one, two)[side], values.axis)]

    def _passed(self, operation: Operation, state: _Product) -> None:
        """Let the results of an operation be scores."""
        state = replace(state, softened=True) if operation.name in _SOFTMAX else state
        self._scores |= {storage_address(tensor): state for tensor in operation.writes}


class _Recorder(TensorRecorder):
    """Sees products of matrices in inference mode too, where they arrive whole."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_whole(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def is_whole(func: Any) -> bool:
    """Tell whether an operation is made of others, and no attention."""
    if func.name().removeprefix("aten::").split(".")[0] in FUSED:
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


class _Fused(TorchFunctionMode):
    """Tells of calls of torch's attention; what they do inside is not looked at."""

    def __init__(self, finder: _Finder) -> None:
        super().__init__()
        self._finder = finder

    def __torch_function__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        keys, values = key_and_value(args, kwargs or {})
        self._finder.attended(keys, values)
        self._finder.fused += 1
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._finder.fused -= 1


def key_and_value(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the keys and values among the arguments of scaled_dot_product_attention."""
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    return named["key"], named["value"]


def find_attention(model: nn.Module, example: Any) -> Attention:
    """Run `model` on the first of `example` and return where it computes attention; no modules where it does not.

    Args:
        model: in eval mode.
        example: one batch of model inputs.
    """
    finder = _Finder(constants_of(model))

    def before(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _module, _args: finder.frames.append(_Frame(name))

    def after(_module: nn.Module, _args: Any, _output: Any) -> None:
        finder.frames.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(before(name), prepend=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Recorder((), finder.observe))
        stack.enter_context(_Fused(finder))
        forward(model, first_example(example))
    return Attention({name: tuple(operands) for name, operands in finder.modules.items()}, tuple(finder.heads))


def require_attention(attention: Attention, formats: Sequence[QuantSpec]) -> None:
    """Refuse to quantize the keys and values of a network that has none.

    Raises:
        InputError: there is no attention.
    """
    if not attention.modules:
        raise InputError(
            f"kv = {listed(map(str, formats))} given, but no attention was seen in the network: neither scaled_dot_product_attention nor "
            "a softmax between two products of activations; leave kv out."
        )


def cached_heads(model: nn.Module, example: Any, formats: Sequence[QuantSpec]) -> Heads:
    """Return the heads of the keys and values of a network that is to be quantized by one of `formats`; none where all are float.

    Raises:
        InputError: the network has no attention.
    """
    if all(spec.is_float for spec in formats):
        return ()
    attention = find_attention(model, example)
    require_attention(attention, formats)
    return attention.heads


def constants_of(module: nn.Module) -> frozenset[int]:
    """Return where the parameters and buffers of a module are stored."""
    return frozenset(storage_address(tensor) for tensor in (*module.parameters(), *module.buffers()) if tensor.numel())


def _heads(x: Tensor, axis: int) -> tuple[int, int]:
    """Return how many different heads keys or values of one example have, and the size of a head."""
    rows = x.movedim(axis, -1)
    heads = rows.reshape(-1, rows.shape[-2] * rows.shape[-1])
    return len(torch.unique(heads, dim=0)), rows.shape[-1]
