"""What a device runs, stores and moves codes as, in words: the rows of docs/hardware.md and of `bitfront devices show`."""

from collections.abc import Mapping

from hw_models.device import Device
from hw_models.models import moves_as
from hw_models.schema.capability import Capability
from hw_models.schema.codes import shorten

_MOVED = {"stored": "as stored", "run": "as what runs", "none": "not counted"}


def widths(device: Device) -> tuple[str, str, str]:
    """Return what the codes of a device run as, are stored as, and move as."""
    capabilities = [Capability.of(rule) for rule in device.file.capability]
    texts = dict.fromkeys(_runs_as(capability) for capability in capabilities)
    return " / ".join(texts), "own bits, packed", _MOVED[moves_as(device)]


def widths_row(device: Device) -> str:
    """Return the row of a device in the table of the docs."""
    return "| " + " | ".join((f"`{device.name}`", *widths(device))) + " |"


def _runs_as(capability: Capability) -> str:
    slots = [_widened(capability.weights), _widened(capability.activations)]
    text = slots[0] if slots[0] == slots[1] else "; ".join(f"{slot}: {part}" for slot, part in zip(("w", "a"), slots, strict=True))
    pairs = [f"{'/'.join(pair)} as {'/'.join(target)}" for pair, target in (capability.pairs or {}).items() if pair != target]
    return "; ".join((text, *pairs))


def _widened(codes: Mapping[str, str]) -> str:
    """Return which codes run as wider ones: `int3 as int4, int5-7 as int8`."""
    groups: dict[str, list[str]] = {}
    for code, target in codes.items():
        if code != target:
            groups.setdefault(target, []).append(code)
    return ", ".join(f"{shorten(group)} as {target}" for target, group in groups.items()) or "every code as itself"
