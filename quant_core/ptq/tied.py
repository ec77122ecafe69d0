"""Whose inputs a weight is rounded for: its layer's; of a tied weight those of the only layer that multiplies them."""

from collections.abc import Collection, Mapping, Sequence

from quant_core.spec.layer import Layer


def tied_layers(layers: Sequence[Layer]) -> frozenset[str]:
    """Return the layers that share a weight."""
    return frozenset(name for layer in layers if layer.tied_to for name in (layer.name, layer.tied_to))


def readers(layers: Sequence[Layer], measured: Collection[str]) -> Mapping[str, str]:
    """Return layer -> the layer for whose inputs its weight is rounded.

    Of a tied weight that is the one layer of `measured` among those that share it, a head for its embedding too; where there are several,
    or none, its layers are left out: they are rounded without regard to inputs.

    Args:
        layers: of the network.
        measured: those whose inputs have second moments.
    """
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(layer.tied_to or layer.name, []).append(layer.name)
    chosen: dict[str, str] = {}
    for names in groups.values():
        there = [name for name in names if name in measured]
        if len(there) == 1:
            chosen |= dict.fromkeys(names, there[0])
    return chosen
