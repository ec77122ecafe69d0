"""Layers whose choices a runtime needs to agree, from the dataflow of an example: of fused kernels, of one tensor, of sums."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from quant_core.network import dataflow
from quant_core.network.forward import first_example, first_examples, forward, placed_inputs
from quant_core.network.parameters import own_modules
from quant_core.spec.layer import Layer

FUSED, INPUTS, SUMS = "fused", "inputs", "sums"
FURTHER = 16
"""Examples of a second run, where the first example does not reach every layer."""
_SAME_WIDTH = {"relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_", "max_pool2d_with_indices", "clone"}
_SAME_WIDTH |= {"view", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice", "select", "split", "alias"}
_SAME_WIDTH |= {"constant_pad_nd", "detach", "reshape", "_reshape_copy", "index_select", "max_pool1d_with_indices", "roll"}
_JOINING = {"add", "add_", "cat", "stack"}
Groups = tuple[tuple[str, ...], ...]


def agreeing_layers(model: nn.Module, layers: Sequence[Layer], inputs: Any) -> Mapping[str, Groups]:
    """Return kind of agreement -> groups of layers, in network order, that are:

    - `fused`: linear layers of one module that read one tensor (q, k and v; gate and up), as runtimes fuse them into one product;
    - `inputs`: layers that read one tensor, perhaps after a ReLU, a maximum or a change of shape: it is stored in one format;
    - `sums`: layers that read operands or results of one addition or concatenation, and those of `inputs`.

    Args:
        model: the float network.
        layers: of its trace.
        inputs: one batch.
    """
    watched = {name: module for name, module in own_modules(model, layers).items() if _has_activation(name, layers)}
    groups: dict[str, list[set[str]]] = {FUSED: [], INPUTS: [], SUMS: []}
    flow = _run(model, watched, first_example(inputs))
    _gather(groups, flow, layers)
    if set(watched) - set(flow.calls):
        _gather(groups, _run(model, watched, first_examples(inputs, FURTHER)), layers)
    order = [layer.name for layer in layers]
    merged = {
        kind: sorted((sorted(group, key=order.index) for group in _merged(sets)), key=lambda group: order.index(group[0]))
        for kind, sets in groups.items()
    }
    return {kind: tuple(map(tuple, ordered)) for kind, ordered in merged.items()}


def _has_activation(name: str, layers: Sequence[Layer]) -> bool:
    return next(layer.takes_activation and layer.calls > 0 for layer in layers if layer.name == name)


def _run(model: nn.Module, watched: dict[str, nn.Module], inputs: Any) -> dataflow.Dataflow:
    return dataflow.record(model, watched, lambda: forward(model, placed_inputs(model, inputs)))


def _gather(groups: dict[str, list[set[str]]], flow: dataflow.Dataflow, layers: Sequence[Layer]) -> None:
    """Add the groups of one run."""
    readers: dict[int, set[str]] = {}
    for name, calls in flow.calls.items():
        for call in calls:
            readers.setdefault(call.read, set()).add(name)
    linear = {layer.name for layer in layers if layer.kind == "linear"}
    for names in readers.values():
        places = {name.rpartition(".")[0] for name in names & linear}
        groups[FUSED] += [{name for name in names & linear if name.rpartition(".")[0] == place} for place in places]
    for kind, joining in ((INPUTS, frozenset()), (SUMS, frozenset(_JOINING))):
        groups[kind] += _readers_of_alike(flow, readers, joining)


def _readers_of_alike(flow: dataflow.Dataflow, readers: Mapping[int, set[str]], joining: frozenset[str]) -> list[set[str]]:
    """Return the layers that read values of one format: values that operations without arithmetic, and `joining` ones, turn into others."""
    alike = [{value} for value in readers]
    for event in flow.events:
        if event.owner or event.writes < 0 or not event.reads:
            continue
        if (event.op in joining and len(event.reads) > 1) or (event.op in _SAME_WIDTH and len(event.reads) == 1):
            alike.append({*event.reads, event.writes})
    return [{name for value in values for name in readers.get(value, ())} for values in _merged(alike, least=1)]


def _merged(sets: Iterable[Iterable[Any]], least: int = 2) -> list[set[Any]]:
    """Return unions of the sets that overlap, those of at least `least` elements."""
    parents: dict[Any, Any] = {}

    def root(element: Any) -> Any:
        parents.setdefault(element, element)
        while parents[element] != element:
            parents[element] = element = parents[parents[element]]
        return element

    for elements in sets:
        roots = [root(element) for element in elements]
        for other in roots[1:]:
            parents[root(other)] = root(roots[0])
    unions: dict[Any, set[Any]] = {}
    for element in parents:
        unions.setdefault(root(element), set()).add(element)
    return [union for union in unions.values() if len(union) >= least]
