"""Weights without a layer kind of their own (of recurrent modules, attention, bags, own modules, stacks of experts): each is a layer."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from quant_core.network.parameters import OUT_PROJECTION, Site, layer_name, matrix_shape
from quant_core.network.products import KERNEL, TRANSPOSED_KERNEL
from quant_core.network.reach import Count, Reach
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import listed


def find_sites(model: nn.Module, modules: Mapping[str, nn.Module], patterns: Collection[str] = ()) -> list[Site]:
    """Return the floating-point parameters of two or more axes that no layer in `modules` holds, and those that `patterns` name.

    A parameter that several modules hold stands once. Left out are parameters of parametrizations.

    Args:
        model: the network.
        modules: layer -> module, the layers with a kind of their own.
        patterns: shell patterns of MODULE.PARAMETER; they reach into those layers too (a low-rank adapter).

    Raises:
        InputError: a pattern matches no such parameter.
    """
    layers = {id(module) for module in modules.values()}
    seen = {id(module._parameters.get("weight")) for module in modules.values()}
    inside = {id(parameter) for module in modules.values() for parameter in module.parameters()}
    sites, names, matched = [], [], set()
    for place, module in model.named_modules():
        if isinstance(module, ParametrizationList):
            continue
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.dim() < 2 or not parameter.is_floating_point() or id(parameter) in seen:
                continue
            name = layer_name(place, key)
            full = f"{place}.{key}".lstrip(".")
            asking = {pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(full, pattern)}
            names.append(name)
            matched |= asking
            if not asking and (id(parameter) in inside or id(module) in layers):
                continue
            seen.add(id(parameter))
            sites.append(Site(name, key, module, parameter, bool(asking)))
        if isinstance(module, nn.MultiheadAttention) and f"{place}.{OUT_PROJECTION}".lstrip(".") in modules:
            sites.append(Site(f"{place}.{OUT_PROJECTION}".lstrip("."), OUT_PROJECTION, module, module.out_proj.weight))
    for pattern in patterns:
        of_layers = [name for name in modules if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{name}.weight", pattern)]
        if pattern not in matched and not of_layers:
            near = suggest(pattern, names)
            raise InputError(f"parameter pattern {pattern!r} matches no parameter of two or more axes; there are: {listed(names)}.{near}")
    return sites


def read_sites(modules: Mapping[str, nn.Module], called: Collection[str], sites: Collection[Site]) -> list[Site]:
    """Return the weights of layers that are not called by the example: others may read them, as a fused kernel does.

    Args:
        modules: layer -> module.
        called: layers that the example calls.
        sites: those that stand for the weights of layers already.
    """
    taken = {site.name for site in sites}
    pairs = ((name, module, module._parameters.get("weight")) for name, module in modules.items() if name not in called)
    return [Site(name, "weight", module, weight) for name, module, weight in pairs if weight is not None and name not in taken]


def named_parameters(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of `names` (of a policy) that are parameters of the network, not modules: `find_sites` takes them as patterns."""
    parameters = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.dim() > 1}
    return tuple(name for name in names if name in parameters)


def site_layers(sites: Iterable[Site], reached: Reach) -> dict[str, Layer]:
    """Return the layer of every site that takes part in a product, is looked up, or was named by the user."""
    return {
        site.name: _layer(site, reached.counts.get(site.name, Count(reachable=False)))
        for site in sites
        if site.asked or site.name in reached.counts
    }


def _layer(site: Site, count: Count) -> Layer:
    shape: tuple[int, ...] = tuple(site.parameter.shape)
    bag = isinstance(site.owner, nn.EmbeddingBag) and site.by_type
    rows = (max(1, round(count.rows)),)
    stack_shape: tuple[int, ...] = ()
    axis = len(shape) - 1 if count.axis == -1 else count.axis
    weight_shape, channel_axis = shape, 0
    if len(shape) == 2:
        channel_axis, inputs, outputs = 1 - axis, shape[axis], shape[1 - axis]
    elif axis in (KERNEL, TRANSPOSED_KERNEL):
        channel_axis = 0 if axis == KERNEL else 1
        inputs, outputs = site.parameter.numel() // shape[channel_axis], shape[channel_axis]
    elif site.by_type:  # of a bilinear module: [outputs, inputs, inputs]
        inputs, outputs = shape[1] * shape[2], shape[0]
    else:
        stack_shape, weight_shape = shape, matrix_shape(shape, axis)
        inputs, outputs = shape[axis], weight_shape[0] // shape[0] if axis else weight_shape[0]
    if bag:
        inputs = outputs = shape[1]
    return Layer(
        name=site.name,
        kind="embedding" if bag else "linear",
        in_channels=inputs,
        out_channels=outputs,
        weight_shape=weight_shape,
        in_size=rows,
        out_size=rows,
        macs=round(count.macs),
        channel_axis=channel_axis,
        weight_only=bag or not count.reachable,
        stack_shape=stack_shape,
        contraction_axis=axis if stack_shape else 0,
    )


def in_network_order(names: Iterable[str], reached: Reach, asked: Sequence[str]) -> list[str]:
    """Return layers in the order in which the batches first reach them; named parameters that none reaches, and then the rest, last."""
    names = list(names)
    order = {name: position for position, name in enumerate((*reached.counts, *asked))}
    return sorted(names, key=lambda name: order.get(name, len(order)))
