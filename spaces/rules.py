"""Rules: pure functions Space -> Space. Layers are named by shell patterns (`blocks.*`) or by `kind:depthwise`."""

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from quant_core.spec.layer import Layer
from quant_core.spec.policy import NONE, LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, QuantSpec
from quant_core.util.errors import InputError
from quant_core.util.registry import suggest
from quant_core.util.text import listed
from spaces.space import SLOTS, Dimension, Space


def full(layers: Sequence[Layer], choices: Mapping[str, Sequence[QuantSpec]]) -> Space:
    """Return the space in which every called layer takes any of `choices["weight"]` and `choices["activation"]`.

    Layers that are never called stay in float, and so does the input of an embedding or of a weight-only layer. Layers that hold the very
    same weight (`Layer.tied_to`) take the same weight choice. A slot with one choice is fixed.
    """
    base = Policy({layer.name: LayerPolicy() for layer in layers})
    dimensions = []
    for layer in layers:
        for slot in SLOTS:
            if not layer.calls or not choices.get(slot) or (slot == "activation" and not layer.takes_activation):
                continue
            if slot == "weight" and layer.tied_to:
                continue
            tied = tuple(other.name for other in layers if slot == "weight" and other.tied_to == layer.name and other.calls)
            dimensions.append(Dimension(slot, (layer.name, *tied), tuple(dict.fromkeys(choices[slot]))))
    return _settled(Space(base, tuple(dimensions)))


def match(layers: Sequence[Layer], pattern: str) -> tuple[str, ...]:
    """Return the names of the layers that `pattern` names: a shell pattern, `first`, `last`, or `kind:KIND`.

    Raises:
        InputError: the pattern matches no layer.
    """
    called = [layer for layer in layers if layer.calls]
    if pattern in ("first", "last") and called:
        return (called[0 if pattern == "first" else -1].name,)
    kind = pattern.removeprefix("kind:") if pattern.startswith("kind:") else None
    names = tuple(layer.name for layer in layers if (layer.kind == kind if kind else fnmatch.fnmatchcase(layer.name, pattern)))
    if not names:
        all_names = [layer.name for layer in layers]
        raise InputError(f"layer pattern {pattern!r} matches nothing; layers: {listed(all_names)}.{suggest(pattern, all_names)}")
    return names


def fix(space: Space, names: Sequence[str], slot: str, spec: QuantSpec) -> Space:
    """Fix one slot of the named layers to `spec`."""
    layers = dict(space.base)
    for name in names:
        layers[name] = replace(layers[name], **{slot: spec})
    return _settled(replace(space, base=space.base.with_layers(layers), dimensions=tuple(_without(space, names, slot))))


def restrict(space: Space, names: Sequence[str], slot: str, legal: Sequence[QuantSpec]) -> Space:
    """Keep, for one slot of the named layers, only the choices that are in `legal`.

    Raises:
        InputError: a layer is left without a choice.
    """
    named = set(names)
    dimensions = []
    for dimension in space.dimensions:
        if dimension.slot != slot or not named & set(dimension.layers):
            dimensions.append(dimension)
            continue
        kept = tuple(choice for choice in dimension.choices if choice in legal)
        if not kept:
            choices, allowed = listed(dimension.choices), listed(legal)
            raise InputError(f"{dimension.name}: none of its choices ({choices}) is in the restriction ({allowed}).")
        dimensions.append(replace(dimension, choices=kept))
    return _settled(replace(space, dimensions=tuple(dimensions)))


def tie(space: Space, names: Sequence[str], slot: str) -> Space:
    """Make the named layers take the same choice in one slot; their choices are intersected.

    Raises:
        InputError: the layers have no choice in common, or one of them is fixed.
    """
    touched = [dimension for dimension in space.dimensions if dimension.slot == slot and set(dimension.layers) & set(names)]
    free = {name for dimension in touched for name in dimension.layers}
    fixed = [name for name in names if name not in free]
    if fixed:
        raise InputError(f"cannot tie {listed(fixed)}: the {slot} there is fixed; drop the fix or the tie.")
    common = tuple(choice for choice in touched[0].choices if all(choice in dimension.choices for dimension in touched))
    if not common:
        raise InputError(f"cannot tie {listed(names)}: their {slot} choices have nothing in common.")
    merged = Dimension(slot, tuple(name for dimension in touched for name in dimension.layers), common)
    kept = [
        merged if dimension is touched[0] else dimension
        for dimension in space.dimensions
        if dimension is touched[0] or dimension not in touched
    ]
    return _settled(replace(space, dimensions=tuple(kept)))


def _without(space: Space, names: Sequence[str], slot: str) -> list[Dimension]:
    """Return the dimensions with one slot of the named layers taken out."""
    kept = []
    for dimension in space.dimensions:
        layers = tuple(name for name in dimension.layers if dimension.slot != slot or name not in names)
        if layers:
            kept.append(replace(dimension, layers=layers))
    return kept


def _settled(space: Space) -> Space:
    """Move dimensions with a single choice into the base policy."""
    layers = dict(space.base)
    for dimension in space.dimensions:
        if len(dimension.choices) == 1:
            for name in dimension.layers:
                layers[name] = replace(layers[name], **{dimension.slot: dimension.choices[0]})
    return replace(
        space,
        base=space.base.with_layers(layers),
        dimensions=tuple(dimension for dimension in space.dimensions if len(dimension.choices) > 1),
    )


def transform(space: Space, names: Sequence[str]) -> Space:
    """Let the network be under any of the transforms `names`; a single one is fixed."""
    names = tuple(dict.fromkeys(names))
    return replace(space, base=Policy(space.base, names[0], space.base.kv), transforms=names if len(names) > 1 else ())


def kv_cache(space: Space, formats: Sequence[QuantSpec]) -> Space:
    """Let keys and values of attention take any of `formats`; a single one is fixed."""
    formats = tuple(dict.fromkeys(formats))
    return replace(space, base=Policy(space.base, space.base.transform, formats[0]), kvs=formats if len(formats) > 1 else ())


def uniform(space: Space) -> tuple[tuple[int, ...], ...]:
    """Return the points at which every layer takes the same weight choice, with the activation choice nearest in bits, and with
    the widest one; a layer without that choice takes the one nearest in bits. All under each choice of the whole network, in turn."""
    activations = _all(space, "activation")
    widest = max(activations, key=lambda spec: spec.bits)
    points = []
    for weight in _all(space, "weight"):
        nearest = min(activations, key=lambda spec: (abs(spec.bits - weight.bits), -spec.bits))
        for activation in dict.fromkeys((nearest, widest)):
            points.append(
                tuple(_nearest(dimension, weight if dimension.slot == "weight" else activation) for dimension in space.dimensions)
            )
    points = list(dict.fromkeys(points))
    return tuple((*point, *rest) for rest in itertools.product(*map(range, space.network_choices)) for point in points)


def uniform_policy(layers: Sequence[Layer], choice: LayerPolicy, network: str = NONE, kv: QuantSpec = FLOAT) -> Policy:
    """Return the policy in which every called layer takes `choice`; the input of an embedding or of a weight-only layer stays in float.

    `network` is the transform that the network is under, `kv` the format of its KV cache.
    """
    alone = replace(choice, activation=FLOAT)
    choices = {layer.name: LayerPolicy() if not layer.calls else choice if layer.takes_activation else alone for layer in layers}
    return Policy(choices, network, kv)


def _all(space: Space, slot: str) -> tuple[QuantSpec, ...]:
    return tuple(dict.fromkeys(choice for dimension in space.dimensions if dimension.slot == slot for choice in dimension.choices)) or (
        FLOAT,
    )


def _nearest(dimension: Dimension, spec: QuantSpec) -> int:
    distance = [(choice != spec, abs(choice.bits - spec.bits), -choice.bits) for choice in dimension.choices]
    return distance.index(min(distance))
