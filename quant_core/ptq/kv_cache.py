"""Keys and values of attention as a quantized KV cache would give them: fake-quantized inside the modules that compute attention.

Every row of a token and head is quantized by itself, over its own range, as KIVI (Liu et al., ICML 2024, arXiv 2402.02750, section 3) does
values; so what a row becomes depends on no other token, and one run over a text gives what generating it token by token would. KIVI takes
the range of keys over tokens, channel by channel; here it is that of the row, as in transformers' QuantizedCache with axis 0.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from quant_core.network.attention import (
    FUSED,
    PRODUCTS,
    Attention,
    Operand,
    constants_of,
    find_attention,
    is_whole,
    key_and_value,
    require_attention,
)
from quant_core.network.dispatch import RecordingMode
from quant_core.network.recorder import storage_address
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.spec.kv_cache import Heads
from quant_core.spec.quant_spec import FLOAT, QuantSpec


class KvCache:
    """Quantizes the keys and values of a network, in place, by one format at a time; in float nothing is changed.

    Args:
        model: in eval mode.
        example: one batch of model inputs, run on its first when a format is first asked for.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self._model, self._example = model, example
        self._attention: Attention | None = None
        self._spec, self._handles = FLOAT, list[Any]()

    @property
    def heads(self) -> Heads:
        """The heads of every cached tensor, and their sizes."""
        return self._found().heads

    def apply(self, spec: QuantSpec) -> None:
        """Let keys and values be quantized by `spec` from now on.

        Raises:
            InputError: the network has no attention.
        """
        while self._handles:
            self._handles.pop().remove()
        self._spec = FLOAT
        if spec.is_float:
            return
        attention, shared = self._found(), _Shared()
        require_attention(attention, (spec,))
        self._spec = spec
        for name, operands in attention.modules.items():
            hook, module = _Hook(spec, operands, shared), self._model.get_submodule(name)
            self._handles.append(module.register_forward_pre_hook(hook.enter))
            self._handles.append(module.register_forward_hook(hook.leave, always_call=True))

    @contextmanager
    def off(self) -> Iterator[None]:
        """Quantize nothing within the block."""
        spec = self._spec
        self.apply(FLOAT)
        try:
            yield
        finally:
            self.apply(spec)

    def _found(self) -> Attention:
        if self._attention is None:
            self._attention = find_attention(self._model, self._example)
        return self._attention


class _Shared:
    """What the hooks of a network share: whether an attention is being computed whose keys and values are quantized already."""

    def __init__(self) -> None:
        self.busy = False

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function within which no key or value is quantized."""
        self.busy = True
        try:
            return function(*args, **kwargs)
        finally:
            self.busy = False


class _Hook:
    """The hooks of one module; methods of an object, which can be copied and pickled with the network."""

    def __init__(self, spec: QuantSpec, operands: Sequence[Operand], shared: _Shared) -> None:
        self._quantizers = {axis: ActivationQuantizer(spec, None, axis) for axis in (-1, -2)}
        self._operands, self._shared = {(operand.call, operand.side): operand.axis for operand in operands}, shared
        self._open: list[ExitStack] = []

    def enter(self, module: nn.Module, _args: Any) -> None:
        """Begin a call of the module."""
        stack = ExitStack()
        stack.enter_context(_Functions(self._quantizers[-1], self._shared))
        constants = constants_of(module) if self._operands else frozenset()
        stack.enter_context(_Operations(self._quantizers, self._operands, self._shared, constants))
        self._open.append(stack)

    def leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """End it."""
        self._open.pop().close()


class _Functions(TorchFunctionMode):
    """Quantizes the arguments of torch's attention: there the keys are not scaled yet."""

    def __init__(self, quantizer: ActivationQuantizer, shared: _Shared) -> None:
        super().__init__()
        self._quantizer, self._shared = quantizer, shared

    def __torch_function__(self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or self._shared.busy:
            return func(*args, **kwargs)
        keys, values = map(self._quantizer, key_and_value(args, kwargs))
        rest = {key: value for key, value in kwargs.items() if key not in ("query", "key", "value")}
        query = args[0] if args else kwargs["query"]
        return self._shared.run(func, (query, keys, values, *args[3:]), rest)


class _Operations(RecordingMode):
    """Quantizes the operands of attention below torch's functions: of kernels, and of products around a softmax."""

    def __init__(
        self,
        quantizers: dict[int, ActivationQuantizer],
        operands: dict[tuple[int, int], int],
        shared: _Shared,
        constants: frozenset[int],
    ) -> None:
        super().__init__()
        self._quantizers, self._operands, self._shared, self._constants = quantizers, operands, shared, constants
        self._products = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func).removeprefix("aten.").split(".")[0]
        if self._shared.busy:
            return func(*args, **kwargs)
        if name in FUSED:
            query, keys, values, *rest = args
            return self._shared.run(func, (query, *map(self._quantizers[-1], (keys, values)), *rest), kwargs)
        if name in PRODUCTS and self._operands and not self._constants & {*map(storage_address, args[-2:])}:
            factors = [self._factor(side, factor) for side, factor in enumerate(args[-2:])]
            self._products += 1
            return func(*args[:-2], *factors, **kwargs)
        if self._operands and is_whole(func):
            with self:
                return func.decompose(*args, **kwargs)
        return func(*args, **kwargs)

    def _factor(self, side: int, factor: Tensor) -> Tensor:
        axis = self._operands.get((self._products, side))
        return factor if axis is None else self._quantizers[axis](factor)
