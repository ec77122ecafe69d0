"""Find the quantizable layers of any `nn.Module` by running one example through it with module hooks (never torch.fx)."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.utils._pytree import tree_leaves

from quant_core.network.forward import first_example, first_input, forward, placed_inputs
from quant_core.network.recorder import Operation, TensorRecorder, storage_address, stored_at
from quant_core.network.reference import reference_network
from quant_core.spec.layer import Layer
from quant_core.util.errors import BitfrontError, InputError, LeftInFloatWarning
from quant_core.util.text import listed

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_TRANSFORMERS_CONV1D = "transformers.pytorch_utils.Conv1D"


def is_transformers_conv1d(module: nn.Module) -> bool:
    """Tell whether `module` is transformers' Conv1D (a linear layer whose weight is [in, out]), without importing transformers."""
    return any(f"{base.__module__}.{base.__qualname__}" == _TRANSFORMERS_CONV1D for base in type(module).__mro__)


def quantizable(model: nn.Module) -> dict[str, nn.Module]:
    """Return qualified name -> module of every layer with a weight that can be quantized; a shared module stands once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding, *_CONVOLUTIONS)) or is_transformers_conv1d(module)
    }


def trace(model: nn.Module, inputs: Any) -> list[Layer]:
    """Return the layers of `model` in the order in which one example first reaches them; never-called layers come last.

    Shared modules and modules called several times are one layer (`calls`, MACs summed). A layer that is never called is
    returned with `calls == 0` and named in a `LeftInFloatWarning`: it stays in float. So are weights that no such layer holds
    (recurrent layers, attention's in_proj_weight, parameters of the user's own modules): they are never quantized nor counted.

    Args:
        model: any module; it is left as it is. In train mode, or where its forward pass changes its weights, a copy is run instead.
        inputs: one batch; only its first example is used.

    Raises:
        InputError: the network holds no quantizable layer.
        BitfrontError: the network fails on the example.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise InputError("the network has lazy modules whose weights are not made yet; run it once on a batch, and train it.")
    owners, model = quantizable(model), reference_network(model, quiet=True)
    modules = quantizable(model)
    if not modules:
        raise InputError(
            "the network has no Linear, Conv, ConvTranspose or Embedding layer; there is nothing to quantize. "
            "Of a scripted network, give the original."
        )
    calls, lives = _run(model, modules, placed_inputs(model, first_example(inputs)))
    called = [name for name, _ in sorted(calls.items(), key=lambda item: item[1][0].start)]
    never = [name for name in modules if name not in calls]
    layers = [_layer(name, modules[name], calls.get(name, []), lives) for name in (*called, *never)]
    held = held_parameters(modules)
    layers = [replace(layer, held_elements=sum(parameter.numel() for parameter in held[layer.name].values())) for layer in layers]
    if never:
        warnings.warn(f"never called by the example, left in float: {listed(never)}", LeftInFloatWarning, stacklevel=2)
    others = _other_weights(model, modules)
    if others:
        text = f"weights that belong to no quantizable layer, left in float and not counted: {listed(others)}"
        warnings.warn(text, LeftInFloatWarning, stacklevel=2)
    beside = [f"{name} ({type(modules[name]).__name__}: {listed(parameters)})" for name, parameters in held.items() if parameters]
    if beside:
        text = f"parameters that layers hold beside weight and bias, left in float and counted as float32: {listed(beside)}"
        warnings.warn(text, LeftInFloatWarning, stacklevel=2)
    return _mark_tied(layers, owners)


def held_parameters(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, nn.Parameter]]:
    """Return layer -> the parameters that it holds beside weight and bias, and that no other layer holds: of a low-rank adapter, say."""
    weights = {id(module._parameters.get(key)) for module in modules.values() for key in ("weight", "bias")}
    held: dict[str, dict[str, nn.Parameter]] = {}
    for name, module in modules.items():
        free = {} if is_parametrized(module) else {key: p for key, p in module.named_parameters() if id(p) not in weights}
        held[name] = free
        weights |= {id(parameter) for parameter in free.values()}
    return held


def _other_weights(model: nn.Module, modules: dict[str, nn.Module]) -> list[str]:
    """Name the parameters of two or more axes that are in no quantizable layer, those of one module together with its type."""
    held = {id(parameter) for module in modules.values() for parameter in module.parameters()}
    named: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, ParametrizationList):  # of a layer whose weight is computed in each call, which the engine refuses
            continue
        keys = [key for key, parameter in module.named_parameters(recurse=False) if parameter.dim() > 1 and id(parameter) not in held]
        if keys:
            named.append(f"{name or 'the network itself'} ({type(module).__name__}: {listed(keys)})")
    return named


@dataclass
class _Call:
    """One call of a layer: where it stands in the sequence of tensor operations, and its shapes."""

    start: int
    source: int
    in_shape: tuple[int, ...]
    end: int = 0
    out_shape: tuple[int, ...] = ()


@dataclass
class _Life:
    """From which operation to which a storage is needed."""

    elements: int
    born: int
    last_use: int


class _Lives:
    """The first and last use of every activation, in operations since the start."""

    def __init__(self) -> None:
        self.step = 0
        self._lives: dict[int, _Life] = {}

    def observe(self, operation: Operation) -> None:
        for tensor in (*operation.reads, *operation.writes):
            if tensor.is_floating_point():
                elements = tensor.untyped_storage().nbytes() // tensor.element_size()
                life = self._lives.setdefault(storage_address(tensor), _Life(elements, self.step, self.step))
                life.last_use = self.step
        self.step += 1

    def alive_beside(self, call: _Call) -> int:
        """Return the elements of activations made before `call`, needed after it, and not its own input."""
        return sum(
            life.elements
            for address, life in self._lives.items()
            if life.born < call.start and life.last_use >= call.end and address != call.source
        )


@dataclass
class _Hooks:
    """Collects the calls of every layer through forward hooks."""

    lives: _Lives
    calls: dict[str, list[_Call]] = field(default_factory=dict)

    def before(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            source: Tensor = first_input(args, kwargs)
            self.calls.setdefault(name, []).append(_Call(self.lives.step, storage_address(source), tuple(source.shape)))

        return hook

    def after(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            call = self.calls[name][-1]
            call.end, call.out_shape = self.lives.step, tuple(output.shape)

        return hook


def _run(model: nn.Module, modules: dict[str, nn.Module], example: Any) -> tuple[dict[str, list[_Call]], _Lives]:
    lives = _Lives()
    hooks = _Hooks(lives)
    recorder = TensorRecorder([*model.parameters(), *model.buffers()], lives.observe)
    handles = [module.register_forward_pre_hook(hooks.before(name), with_kwargs=True) for name, module in modules.items()]
    handles += [module.register_forward_hook(hooks.after(name)) for name, module in modules.items()]
    try:
        with torch.no_grad(), recorder:
            forward(model, example)
    except BitfrontError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
        raise BitfrontError(
            f"the network failed on one example of shape {shapes} with {type(error).__name__}: {str(error).partition(chr(10))[0]}. "
            f"Inputs have the examples along their first axis; a tuple is passed as model(*x), a dict as model(**x)."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return hooks.calls, lives


def _layer(name: str, module: Any, calls: list[_Call], lives: _Lives) -> Layer:
    shape: tuple[int, ...] = tuple(module.weight.shape)
    bias = isinstance(getattr(module, "bias", None), Tensor)
    live = max((lives.alive_beside(call) for call in calls), default=0)
    if isinstance(module, _CONVOLUTIONS):
        return _convolution(name, module, calls, bias, live)
    channel_axis = 1 if is_transformers_conv1d(module) else 0
    outputs, inputs = shape[channel_axis], shape[1 - channel_axis]
    embedding = isinstance(module, nn.Embedding)
    rows = (math.prod(calls[0].in_shape if embedding else calls[0].in_shape[:-1]),) if calls else ()
    return Layer(
        name=name,
        kind="embedding" if embedding else "linear",
        in_channels=inputs,
        out_channels=inputs if embedding else outputs,
        weight_shape=shape,
        in_size=rows,
        out_size=rows,
        macs=0 if embedding else sum(math.prod(call.out_shape) * inputs for call in calls),
        channel_axis=channel_axis,
        bias=bias,
        calls=len(calls),
        live_elements=live,
    )


def _convolution(name: str, module: Any, calls: list[_Call], bias: bool, live: int) -> Layer:
    transposed = isinstance(module, _TRANSPOSED)
    taps = math.prod(module.kernel_size)
    fan = (module.out_channels if transposed else module.in_channels) // module.groups * taps
    macs = sum(math.prod(call.in_shape if transposed else call.out_shape) * fan for call in calls)
    depthwise = module.groups == module.in_channels and module.groups > 1
    return Layer(
        name=name,
        kind="conv_transpose" if transposed else "depthwise" if depthwise else "conv",
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        weight_shape=tuple(module.weight.shape),
        in_size=calls[0].in_shape[2:] if calls else (),
        out_size=calls[0].out_shape[2:] if calls else (),
        macs=macs,
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        groups=module.groups,
        channel_axis=1 if transposed else 0,
        bias=bias,
        calls=len(calls),
        live_elements=live,
    )


def _mark_tied(layers: list[Layer], modules: dict[str, nn.Module]) -> list[Layer]:
    """Name, on every layer whose weight is stored where an earlier layer's is, that layer, and take over the axis of its channels."""
    first: dict[tuple[int, int, int], Layer] = {}
    marked = []
    for layer in layers:
        owner = first.setdefault(stored_at(_weight(modules[layer.name])), layer)
        same = owner is layer
        axis = layer.channel_axis if same else _shared_axis(owner, _weight(modules[owner.name]), _weight(modules[layer.name]))
        marked.append(layer if same else replace(layer, tied_to=owner.name, channel_axis=axis))
    return marked


def _weight(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight


def _shared_axis(owner: Layer, stored: Tensor, view: Tensor) -> int:
    """Return the axis of a tied weight along which the channels of its owner lie: one stored tensor has one scale per channel."""
    transposed = stored.dim() == view.dim() == 2 and view.stride() == stored.stride()[::-1] and view.stride() != stored.stride()
    return 1 - owner.channel_axis if transposed else owner.channel_axis
