"""The layers that follow a layer: that read its output with no other layer between, behind activation functions, sums or averages."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from quant_core.network import dataflow
from quant_core.network.forward import first_example, forward, placed_inputs
from quant_core.network.parameters import own_modules
from quant_core.spec.layer import Layer


def followers(model: nn.Module, layers: Sequence[Layer], inputs: Any) -> Mapping[str, tuple[str, ...]]:
    """Return layer -> the layers that follow it, in network order; layers that none follows are left out.

    Of the layers that reach an input over sums, as the branches of residual networks, it follows the one that was computed last.

    Args:
        model: the float network.
        layers: of its trace.
        inputs: one batch.
    """
    modules = own_modules(model, layers)
    watched = {layer.name: modules[layer.name] for layer in layers if layer.takes_activation and layer.calls}
    flow = dataflow.record(model, watched, lambda: forward(model, placed_inputs(model, first_example(inputs))))
    makers = {call.write: name for name, calls in flow.calls.items() for call in calls}
    turns = {name: turn for turn, name in enumerate(flow.calls)}
    sources: dict[int, list[int]] = {}
    for event in flow.events:
        if event.writes >= 0 and not event.owner:
            sources.setdefault(event.writes, []).extend(value for value in event.reads if value != event.writes)
    behind: dict[str, set[str]] = {}
    for name, calls in flow.calls.items():
        for call in calls:
            reached = _reached(call.read, makers, sources)
            if reached:
                behind.setdefault(max(reached, key=turns.__getitem__), set()).add(name)
    order = {layer.name: n for n, layer in enumerate(layers)}
    return {layer.name: tuple(sorted(behind[layer.name], key=order.__getitem__)) for layer in layers if layer.name in behind}


def _reached(value: int, makers: Mapping[int, str], sources: Mapping[int, Sequence[int]]) -> set[str]:
    """Return the layers from which a value comes with no other layer between."""
    names, waiting, seen = set[str](), [value], {value}
    while waiting:
        one = waiting.pop()
        if one in makers:
            names.add(makers[one])
            continue
        waiting += set(sources.get(one, ())) - seen
        seen |= set(waiting)
    return names
