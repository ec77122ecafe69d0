"""`Space`: the choices of every layer, as a finite product of dimensions with exact inverses. Free of torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from quant_core.spec.kv_cache import require_kv
from quant_core.spec.policy import TRANSFORMS, LayerPolicy, Policy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError
from quant_core.util.text import listed

Values = tuple[int, ...]
IntArray = NDArray[np.int64]
SLOTS = ("weight", "activation")


@dataclass(frozen=True, slots=True)
class Dimension:
    """One free choice: which of `choices` one slot of the named layers takes (several layers: they are tied)."""

    slot: str
    layers: tuple[str, ...]
    choices: tuple[QuantSpec, ...]

    @property
    def name(self) -> str:
        """`<first layer>.<slot>`; unique within a space."""
        return f"{self.layers[0]}.{self.slot}"


@dataclass(frozen=True)
class Space:
    """All policies that may be proposed: a base policy with some slots left free.

    Attributes:
        base: every layer in network order; the fixed slots are read from here.
        dimensions: the free slots; no slot of a layer may be named twice.
        transforms: of the network, one of which a policy has; a dimension behind those of the layers where there are several. None: that
            of the base.
        kvs: likewise the formats of the KV cache; the last dimension.
    """

    base: Policy
    dimensions: tuple[Dimension, ...]
    transforms: tuple[str, ...] = ()
    kvs: tuple[QuantSpec, ...] = ()

    def __post_init__(self) -> None:
        named = [(layer, dimension.slot) for dimension in self.dimensions for layer in dimension.layers]
        if len(set(named)) != len(named):
            twice = sorted({f"{layer}.{slot}" for layer, slot in named if named.count((layer, slot)) > 1})
            raise InputError(f"slots in more than one dimension: {listed(twice)}.")
        missing = sorted({layer for layer, _ in named if layer not in self.base})
        if missing:
            raise InputError(f"layers {listed(missing)} are not in the base policy; known: {listed(self.base)}.")
        empty = [dimension.name for dimension in self.dimensions if not dimension.choices]
        if empty:
            raise InputError(f"no choice is left for {listed(empty)}; allow at least one format there.")
        if not set(self.transforms) <= set(TRANSFORMS) or len(set(self.transforms)) != len(self.transforms):
            raise InputError(f"network = {list(self.transforms)} given; each of {listed(TRANSFORMS)} at most once.")
        if len(set(map(require_kv, self.kvs))) != len(self.kvs):
            raise InputError(f"kv = {list(map(str, self.kvs))} given; each format at most once.")

    @property
    def size(self) -> int:
        """How many policies the space holds."""
        return math.prod(self.cardinalities)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Choices per dimension, those of the whole network last."""
        return (*(len(dimension.choices) for dimension in self.dimensions), *self.network_choices)

    @property
    def network_choices(self) -> tuple[int, ...]:
        """Choices per dimension of the whole network: transforms, then formats of the KV cache, where there are several."""
        return tuple(len(choices) for choices in (self.transforms, self.kvs) if len(choices) > 1)

    @property
    def layerwise(self) -> "Space":
        """The space of the layers alone, under the first transform, with a KV cache in float."""
        return Space(Policy(self.base, self.transforms[0] if self.transforms else self.base.transform), self.dimensions)

    def _of_network(self, values: Sequence[int]) -> tuple[str, QuantSpec]:
        """Return the transform and the format of the KV cache at a point."""
        behind = list(values[len(self.dimensions) :])
        transform = self.transforms[behind.pop(0)] if len(self.transforms) > 1 else (*self.transforms, self.base.transform)[0]
        return transform, self.kvs[behind.pop(0)] if len(self.kvs) > 1 else (*self.kvs, self.base.kv)[0]

    def sample(self, rng: np.random.Generator) -> Values:
        """Draw one point uniformly."""
        return tuple(int(rng.integers(n)) for n in self.cardinalities)

    def policy(self, values: Sequence[int]) -> Policy:
        """Return the policy at `values` (one choice index per dimension).

        Raises:
            InputError: wrong length or an index out of range.
        """
        if len(values) != len(self.cardinalities):
            raise InputError(f"{len(values)} values given; the space has {len(self.cardinalities)} dimensions.")
        names = [name for name, choices in (("network", self.transforms), ("kv", self.kvs)) if len(choices) > 1]
        for name, value, count in zip(names, values[len(self.dimensions) :], self.network_choices, strict=True):
            if not 0 <= value < count:
                raise InputError(f"{name}: choice {value} given; legal: 0 to {count - 1}.")
        slots: dict[str, dict[str, QuantSpec]] = {
            name: {"weight": choice.weight, "activation": choice.activation} for name, choice in self.base.items()
        }
        for dimension, value in zip(self.dimensions, values, strict=False):
            if not 0 <= value < len(dimension.choices):
                raise InputError(f"{dimension.name}: choice {value} given; legal: 0 to {len(dimension.choices) - 1}.")
            for layer in dimension.layers:
                slots[layer][dimension.slot] = dimension.choices[value]
        return Policy({name: LayerPolicy(**specs) for name, specs in slots.items()}, *self._of_network(values))

    def values(self, policy: Policy) -> Values:
        """Return the point of `policy`; `space.values(space.policy(v)) == v`.

        Raises:
            InputError: the policy is for other layers, or takes a choice that the space does not hold.
        """
        if list(policy) != list(self.base):
            raise InputError(f"the policy is for other layers ({listed(policy)}); this space is for {listed(self.base)}.")
        values = tuple(self._value(dimension, policy) for dimension in self.dimensions)
        values += _place("network", policy.transform, self.transforms or (self.base.transform,))
        values += _place("kv", policy.kv, self.kvs or (self.base.kv,))
        if self.policy(values) != policy:
            name = next(name for name in policy if policy[name] != self.policy(values)[name])
            raise InputError(f"layer {name!r}: {policy[name]} given; this space fixes or ties it to {self.policy(values)[name]}.")
        return values

    def _value(self, dimension: Dimension, policy: Policy) -> int:
        spec: QuantSpec = getattr(policy[dimension.layers[0]], dimension.slot)
        if spec not in dimension.choices:
            raise InputError(f"{dimension.name}: {spec} is not a choice here; legal: {listed(map(str, dimension.choices))}.")
        return dimension.choices.index(spec)

    @cached_property
    def layer_choices(self) -> Mapping[str, tuple[LayerPolicy, ...]]:
        """Per layer, every (weight, activation) pair it can take: weight-major order, as `layer_index` counts."""
        return {
            name: tuple(LayerPolicy(w, a) for w in self._slot_choices(name, "weight") for a in self._slot_choices(name, "activation"))
            for name in self.base
        }

    def layer_index(self, values: IntArray) -> IntArray:
        """Turn points [N, D] into indices [N, L] into `layer_choices` of each layer, for a whole batch at once."""
        free = {(layer, dimension.slot): d for d, dimension in enumerate(self.dimensions) for layer in dimension.layers}
        columns = []
        for name in self.base:
            activations = len(self._slot_choices(name, "activation"))
            weight, activation = (
                values[:, free[name, slot]] if (name, slot) in free else np.zeros(len(values), dtype=np.int64) for slot in SLOTS
            )
            columns.append(weight * activations + activation)
        return np.stack(columns, axis=1)

    def _slot_choices(self, layer: str, slot: str) -> tuple[QuantSpec, ...]:
        return self._free_slots.get((layer, slot), (getattr(self.base[layer], slot),))

    @cached_property
    def _free_slots(self) -> dict[tuple[str, str], tuple[QuantSpec, ...]]:
        return {(layer, dimension.slot): dimension.choices for dimension in self.dimensions for layer in dimension.layers}

    @cached_property
    def sites(self) -> tuple[tuple[int, ...], ...]:
        """Dimensions that share a layer, directly or through ties: the groups over which cost is a plain sum; a network's alone."""
        group = list(range(len(self.dimensions)))
        first_on: dict[str, int] = {}
        for d, dimension in enumerate(self.dimensions):
            for layer in dimension.layers:
                old, new = group[first_on.setdefault(layer, d)], group[d]
                group = [old if g == new else g for g in group]
        sites = tuple(tuple(d for d, g in enumerate(group) if g == root) for root in sorted(set(group)))
        return (*sites, *((len(group) + k,) for k in range(len(self.network_choices))))


def _place(kind: str, chosen: object, legal: Sequence[object]) -> Values:
    """Return the index of a choice of the whole network, where there are several."""
    if chosen not in legal:
        raise InputError(f"{kind}: {chosen} is not a choice here; legal: {listed(map(str, legal))}.")
    return (legal.index(chosen),) if len(legal) > 1 else ()
