"""The choices that agree by default, because the runtime of an asked export format, or the device, needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quant_core.spec.layer import Layer
from quant_core.util.text import listed
from search.config.experiment import SpaceSection
from spaces import rules
from spaces.space import Space

RUNTIME_TIES = {"vllm": ("fused",), "c-array": ("sums",)}
"""Export format -> the agreements that its runtime needs (`quant_core.network.agreement`).

vLLM computes q, k and v, and gate and up, as one product, and refuses checkpoints in which these differ (`QKVParallelLinear`,
`MergedColumnParallelLinear`; `find_matched_target` of its compressed-tensors code). Integer C kernels add tensors of one width.
"""
_SLOTS = {"fused": ("weight", "activation"), "inputs": ("activation",), "sums": ("activation",)}
SHOWN = 3


@dataclass(frozen=True)
class Tie:
    """One slot of layers that takes one choice.

    Attributes:
        slot: "weight" or "activation".
        layers: in network order.
        reason: the format or the device that needs it.
    """

    slot: str
    layers: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.slot} of {listed(self.layers, 6)} ({self.reason})"


def needed(formats: Sequence[str], device: str, of_device: Sequence[str]) -> dict[str, str]:
    """Return kind of agreement -> what needs it."""
    by_format = {kind: f"format {name}" for name in formats for kind in RUNTIME_TIES.get(name, ())}
    return {**{kind: f"device {device}" for kind in of_device}, **by_format}


def default_ties(
    space: Space, layers: Sequence[Layer], section: SpaceSection, kinds: Mapping[str, str], model: Any, inputs: Any
) -> tuple[Tie, ...]:
    """Return the ties of a space; layers that a rule `untie` names, and slots without a choice, are left out.

    Args:
        space: before the rules.
        layers: of the trace.
        section: its rules `untie` are read.
        kinds: as `needed` returns them.
        model, inputs: the float network and one batch.

    Raises:
        InputError: a rule's pattern matches no layer.
    """
    untied = {(name, slot) for rule in section.rules if rule.untie for name in rules.match(layers, rule.untie) for slot in rule.slots}
    free = {(name, d.slot) for d in space.dimensions for name in d.layers} - untied
    if not any((name, slot) in free for kind in kinds for slot in _SLOTS[kind] for name in space.base):
        return ()
    from quant_core.network.agreement import agreeing_layers

    groups = agreeing_layers(model, layers, inputs)
    ties: list[Tie] = []
    for kind, reason in kinds.items():
        for group in groups[kind]:
            for slot in _SLOTS[kind]:
                names = tuple(name for name in group if (name, slot) in free)
                if len(names) > 1 and not any(set(names) <= set(tie.layers) and tie.slot == slot for tie in ties):
                    ties.append(Tie(slot, names, reason))
    return tuple(ties)


def summary(ties: Sequence[Tie]) -> str:
    """Return a line about the ties; "" where there are none."""
    if not ties:
        return ""
    choices = "choice that layers share" if len(ties) == 1 else "choices that layers share"
    return f"{len(ties)} {choices}: {'; '.join(map(str, ties[:SHOWN]))}{'; ...' if len(ties) > SHOWN else ''}"
