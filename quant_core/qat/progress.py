"""How far a training run has come, and that every epoch has the batches that the learning rate is planned for."""

import logging
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any

from quant_core.util.errors import InputError

logger = logging.getLogger(__name__)

History = list[dict[str, float]]


@dataclass
class Progress:
    """The progress of a run: the next batch of the present epoch, the sum of the epoch's losses, the metrics of the epochs before."""

    epoch: int = 0
    position: int = 0
    loss: float = 0.0
    stopped: bool = False
    history: History = field(default_factory=list)

    def check_length(self, planned: int) -> None:
        """Refuse an epoch without a batch, at its end; warn of one of another length than was planned for.

        Raises:
            InputError: the split gave nothing, as one that can be read only once.
        """
        if not self.position:
            raise InputError(f"the training split gave no batch in epoch {self.epoch + 1}; give what can be read again and again.")
        if self.position != planned:
            text = "qat: epoch %d had %d batches where the training split has %d; the learning rate is planned for those"
            logger.warning(text, self.epoch + 1, self.position, planned)


def count_batches(batches: Iterable[Any]) -> int:
    """Return the number of batches of a training split; one without a length is read once.

    Raises:
        InputError: there is none, or they can be read only once.
    """
    if isinstance(batches, Iterator):
        raise InputError(
            f"the training split is a {type(batches).__name__}, which can be read only once, and every epoch reads it; give a list of "
            f"batches, a DataLoader, or an object whose __iter__ begins anew."
        )
    count = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
    if not count:
        raise InputError("the training split is empty; give at least one batch.")
    return count
