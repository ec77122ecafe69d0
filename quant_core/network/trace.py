"""Find the quantizable layers of any `nn.Module` by running one example through it with module hooks (never torch.fx)."""

import itertools
import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from quant_core.network.apart import part_size
from quant_core.network.forward import first_example, placed_inputs
from quant_core.network.lives import LayerCall, Lives, run_first
from quant_core.network.parameters import holder
from quant_core.network.reach import Count, Reach, Shapes, reach
from quant_core.network.recorder import stored_at
from quant_core.network.reference import reference_network, uncompiled
from quant_core.network.sites import find_sites, in_network_order, read_sites, site_layers
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError, LeftInFloatWarning
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


def trace(model: nn.Module, inputs: Any, batches: Iterable[Any] = (), parameters: Collection[str] = ()) -> list[Layer]:
    """Return the layers of `model` in the order in which they are first reached; never-called layers come last.

    Every weight that takes part in a product is a layer: of Linear, Conv, ConvTranspose and Embedding modules; of recurrent modules,
    attention, bilinear modules, bags, own modules and stacks of experts (named MODULE.PARAMETER, or MODULE where that is `weight`). Shared
    modules and modules called several times are one layer (`calls`, MACs summed). What stays in float is named in a `LeftInFloatWarning`:
    layers that are never called (returned with `calls == 0`), and all other weights, which are no layer.

    Args:
        model: any module; it is left as it is. In train mode, or where its forward pass changes its weights, a copy is run instead.
        inputs: one batch; shapes, calls and lives of activations are those of its first example.
        batches: calibration batches; the first 128 examples are run too, layers that only they reach are found, and MACs are means over
            them. Without any, the counts are those of the one example.
        parameters: shell patterns of parameters of two or more axes that shall be layers too, as `*.position_table`.

    Raises:
        InputError: the network holds no quantizable layer, or a pattern matches no parameter.
        BitfrontError: the network fails on the example.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise InputError("the network has lazy modules whose weights are not made yet; run it once on a batch, and train it.")
    source, model = uncompiled(model), reference_network(model, quiet=True)
    modules = quantizable(model)
    sites = find_sites(model, modules, parameters)
    if not modules and not sites:
        raise InputError(
            "the network has no Linear, Conv, ConvTranspose or Embedding layer, and no other weight of two axes; there is nothing to "
            "quantize. Of a scripted network, give the original."
        )
    calls, lives = run_first(model, modules, placed_inputs(model, first_example(inputs)))
    sites += read_sites(modules, calls, sites)
    batches = iter(batches)
    further = list(itertools.islice(batches, 1))
    if sites or further:
        at_once = part_size(model, further[0] if further else inputs)
        reached = reach(model, modules, sites, inputs, itertools.chain(further, batches), call_macs, at_once)
    else:
        reached = Reach(dict.fromkeys(sorted(calls, key=lambda name: calls[name][0].start), Count(calls=1)))
    never = [name for name in modules if name not in calls and name not in reached.counts]
    layers = {name: _with_means(_layer(name, modules[name], calls.get(name, []), lives), reached) for name in (*calls, *never)}
    late = {name: count for name, count in reached.counts.items() if name in modules and name not in layers and any(count.shapes)}
    sites = [site for site in sites if site.name not in late]
    layers |= {name: _late_layer(name, modules[name], count, reached) for name, count in late.items()}
    layers |= {name: replace(layer, bias=_has_bias(modules.get(name))) for name, layer in site_layers(sites, reached).items()}
    held = held_parameters(modules, {id(site.parameter) for site in sites})
    for name, beside in held.items():
        layers[name] = replace(layers[name], held_elements=sum(parameter.numel() for parameter in beside.values()))
    _warn_of_floats(model, modules, held, never, {id(site.parameter) for site in sites if site.name in layers})
    return _mark_tied([layers[name] for name in in_network_order(layers, reached, never)], source)


def _has_bias(module: nn.Module | None) -> bool:
    """Tell whether a layer's module has a bias."""
    return isinstance(getattr(module, "bias", None), Tensor)


def held_parameters(modules: Mapping[str, nn.Module], others: Collection[int] = ()) -> dict[str, dict[str, nn.Parameter]]:
    """Return layer -> the parameters that it holds beside weight and bias, and that no other layer holds: of a low-rank adapter, say.

    Args:
        modules: layer -> module.
        others: identities of parameters that are layers of their own.
    """
    weights = {id(module._parameters.get(key)) for module in modules.values() for key in ("weight", "bias")} | set(others)
    held: dict[str, dict[str, nn.Parameter]] = {}
    for name, module in modules.items():
        free = {} if is_parametrized(module) else {key: p for key, p in module.named_parameters() if id(p) not in weights}
        held[name] = free
        weights |= {id(parameter) for parameter in free.values()}
    return held


def _warn_of_floats(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    held: Mapping[str, Mapping[str, nn.Parameter]],
    never: Collection[str],
    layers: Collection[int],
) -> None:
    """Warn of weights in float: never-called layers, parameters of two or more axes that are no layer, those that layers hold beside."""
    counted = {id(parameter) for module in modules.values() for parameter in module.parameters()} | set(layers)
    named: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, ParametrizationList):  # of a layer whose weight is computed in each call, which the engine refuses
            continue
        keys = [key for key, parameter in module.named_parameters(recurse=False) if parameter.dim() > 1 and id(parameter) not in counted]
        if keys:
            named.append(f"{name or 'the network itself'} ({type(module).__name__}: {listed(keys)})")
    beside = [f"{name} ({type(modules[name]).__name__}: {listed(keys)})" for name, keys in held.items() if keys]
    for names, text in (
        (never, "never called by the example, left in float"),
        (named, "weights that belong to no quantizable layer, left in float"),
        (beside, "parameters that layers hold beside weight and bias, left in float and counted as float32"),
    ):
        if names:
            warnings.warn(f"{text}: {listed(names)}", LeftInFloatWarning, stacklevel=3)


def call_macs(module: Any, shapes: Shapes) -> int:
    """Return the multiply-accumulates of one call of a layer's module."""
    if isinstance(module, nn.Embedding):
        return 0
    if isinstance(module, _CONVOLUTIONS):
        transposed = isinstance(module, _TRANSPOSED)
        fan = (module.out_channels if transposed else module.in_channels) // module.groups * math.prod(module.kernel_size)
        return math.prod(shapes[0] if transposed else shapes[1]) * fan
    weight_shape = module.weight.shape
    return math.prod(shapes[1]) * int(weight_shape[0 if is_transformers_conv1d(module) else 1])


def _with_means(layer: Layer, reached: Reach) -> Layer:
    """Return a layer with the mean MACs of the batches; where they are others than the first example's, a linear layer's rows too."""
    count = reached.counts.get(layer.name)
    if not reached.batches or count is None or round(count.macs) == layer.macs:
        return layer
    if layer.kind != "linear":
        return replace(layer, macs=round(count.macs))
    rows = (max(1, round(count.rows / layer.calls)),)
    return replace(layer, macs=round(count.macs), in_size=rows, out_size=rows)


def _late_layer(name: str, module: nn.Module, count: Count, reached: Reach) -> Layer:
    """Return a layer that the first example does not reach, with the shapes of the first call, and MACs and rows as means."""
    call = LayerCall(0, 0, count.shapes[0], 0, count.shapes[1])
    layer = _layer(name, module, [call], Lives())
    rows = (max(1, round(count.rows)),)
    layer = replace(layer, in_size=rows, out_size=rows) if layer.kind in ("linear", "embedding") else layer
    return replace(layer, macs=round(count.macs), calls=max(1, round(count.calls / max(reached.batches, 1))))


def _layer(name: str, module: Any, calls: list[LayerCall], lives: Lives) -> Layer:
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
        macs=sum(call_macs(module, (call.in_shape, call.out_shape)) for call in calls),
        channel_axis=channel_axis,
        bias=bias,
        calls=len(calls),
        live_elements=live,
    )


def _convolution(name: str, module: Any, calls: list[LayerCall], bias: bool, live: int) -> Layer:
    transposed = isinstance(module, _TRANSPOSED)
    macs = sum(call_macs(module, (call.in_shape, call.out_shape)) for call in calls)
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


def _mark_tied(layers: list[Layer], model: nn.Module) -> list[Layer]:
    """Name, on every layer whose weight is stored where an earlier layer's is, that layer, and take over the axis of its channels."""
    first: dict[tuple[int, int, int], tuple[Layer, Tensor]] = {}
    marked = []
    for layer in layers:
        module, key = holder(model, layer.name)
        weight: Tensor = getattr(module, key)
        owner, stored = first.setdefault(stored_at(weight), (layer, weight))
        same = owner is layer
        marked.append(layer if same else replace(layer, tied_to=owner.name, channel_axis=_shared_axis(owner, stored, weight)))
    return marked


def _shared_axis(owner: Layer, stored: Tensor, view: Tensor) -> int:
    """Return the axis of a tied weight along which the channels of its owner lie: one stored tensor has one scale per channel."""
    transposed = stored.dim() == view.dim() == 2 and view.stride() == stored.stride()[::-1] and view.stride() != stored.stride()
    return 1 - owner.channel_axis if transposed else owner.channel_axis
