"""Choices that an export format of the experiment cannot hold, taken out of the space before the search, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from quant_core.network.parameters import layer_module
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.registry import load
from quant_core.util.text import listed
from spaces import rules
from spaces.space import SLOTS, Space

REFUSALS = "search.exporters.support:REFUSALS"
"""Format -> (module, layer, policy) -> why it does not hold the layer, or "". Exporters stand above sweeps: imported when asked for."""


@dataclass(frozen=True)
class Dropped:
    """Choices that layers do not have.

    Attributes:
        format: that does not hold them.
        choices: of the first of the layers.
        layers: in network order, of one reason.
        reason: why the first of the choices is not held.
    """

    format: str
    choices: tuple[QuantSpec, ...]
    layers: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"format {self.format} leaves out {listed(self.choices, 4)} of {listed(self.layers, 3)}: {self.reason}"


def held(space: Space, layers: Sequence[Layer], model: Any, formats: Sequence[str]) -> tuple[Space, tuple[Dropped, ...]]:
    """Return the space without the choices that a format refuses whatever the layer's other choice is, and what was dropped.

    A layer none of whose choices is held keeps them all: what a sweep can then be refused for is said by `check_formats`.

    Args:
        space: behind the rules.
        layers: of the trace.
        model: the float network.
        formats: of the export.
    """
    dropped: dict[tuple[str, str], Dropped] = {}
    refusals = cast(Mapping[str, Any], load(REFUSALS)) if formats else {}
    every = space.layer_choices
    for name in (name for name in formats if name in refusals):
        for layer in layers:
            module = layer_module(model, layer)
            reasons = {choice: refusals[name](module, layer, choice) for choice in every[layer.name]}
            for slot in SLOTS:
                space, out = _without(space, layer, slot, reasons)
                if out:
                    reason = next(reason for choice, reason in reasons.items() if getattr(choice, slot) in out)
                    before = dropped.get((name, reason), Dropped(name, out, (), reason))
                    dropped[name, reason] = Dropped(name, before.choices, (*before.layers, layer.name), reason)
    return space, tuple(dropped.values())


def _without(space: Space, layer: Layer, slot: str, reasons: Mapping[LayerPolicy, str]) -> tuple[Space, tuple[QuantSpec, ...]]:
    """Return the space without the choices of one slot that are always refused, and these choices."""
    kept = {getattr(choice, slot) for choice, reason in reasons.items() if not reason}
    free = next((dimension for dimension in space.dimensions if dimension.slot == slot and layer.name in dimension.layers), None)
    out = tuple(choice for choice in free.choices if choice not in kept) if free else ()
    if not out or free is None or len(out) == len(free.choices):
        return space, ()
    return rules.restrict(space, [layer.name], slot, [choice for choice in free.choices if choice in kept]), out
