"""What single layers are sensitive to, and what they cost: plain data, for the page of a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerFigures:
    """The figures of layers.

    Attributes:
        layers: names in network order.
        rises: slot -> layer -> text of a format -> how far the outputs move from the float network's, in nats, when this slot alone
            takes it; layers that share a choice share the figure, and a slot without a choice has none.
        policy: the id of the policy that the costs are of.
        costs: metric -> per layer [L], in SI units.
    """

    layers: tuple[str, ...]
    rises: Mapping[str, Mapping[str, Mapping[str, float]]]
    policy: str
    costs: Mapping[str, tuple[float, ...]]
