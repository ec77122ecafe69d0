"""Batches that went through a network, and the state that a metric gathers of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Judged:
    """One batch that went through a network.

    Attributes:
        outputs: the part that is judged.
        targets: of the batch; None where it has none.
        weights: [N], of every example, or of every target; None: all alike.
        float_outputs: of the float network; only for metrics against it.
        whole: all that the network returned.
        axis: of the classes in `outputs`; None: not given, it follows from the shapes.
        place: of the batch, for messages.
    """

    outputs: Tensor
    targets: Any
    weights: Tensor | None = None
    float_outputs: Tensor | None = None
    whole: Any = None
    axis: int | None = None
    place: str = "the batch"


class State(Protocol):
    """What a metric has gathered of a set."""

    def update(self, batch: Judged) -> None:
        """Take one more batch."""

    def values(self) -> Sequence[float]:
        """Return the figures of the whole set, one for each of the metric's infos."""


@runtime_checkable
class Scored(Protocol):
    """A state that judges every example by itself, so that two networks can be compared on the same ones."""

    def scores(self) -> list[Tensor]:
        """Return the scores in [0, 1], batch by batch; nothing where examples do not count alike."""


@runtime_checkable
class Accumulator(Protocol):
    """A metric object in the form of torchmetrics."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Take one more batch."""

    def compute(self) -> Any:
        """Return the figure."""

    def reset(self) -> None:
        """Forget everything."""
