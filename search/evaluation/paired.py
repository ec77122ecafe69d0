"""Paired comparison with the float network: both are judged on the same examples, so what they share cancels."""

import math

import torch
from torch import Tensor

from quant_core.util.devices import CPU
from search.records.expected import ERROR


class PairedScores:
    """The float network's scores on the examples of one split, one by one."""

    def __init__(self) -> None:
        self._scores: Tensor | None = None

    @property
    def measured(self) -> bool:
        """Whether the float network was judged on this split."""
        return self._scores is not None

    @property
    def count(self) -> int:
        """How many predictions the float network was judged by, one by one: of a language model its tokens; 0 where it gives no scores."""
        return 0 if self._scores is None else self._scores.numel()

    def keep(self, scores: list[Tensor]) -> None:
        """Keep the float network's scores, given batch by batch; none where the metric gives no score per example."""
        self._scores = _flat(scores)

    def figures(self, scores: list[Tensor]) -> dict[str, float]:
        """Return `accuracy_drop_se` of a policy, in fractions; nothing where scores are missing on one side."""
        if self._scores is None or not scores:
            return {}
        others = _flat(scores)
        if not others.numel() or others.shape != self._scores.shape:
            return {}
        return {ERROR: standard_error(self._scores - others)}


def standard_error(differences: Tensor) -> float:
    """Return the standard error of the mean of paired differences in [-1, 1], [N].

    With half an example added to the gains and half to the losses, as Agresti and Min, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24, 2005, section 3: the error of no difference among n examples is 1 / (n + 2), not 0.

    >>> round(standard_error(torch.zeros(98)), 6)
    0.01
    """
    count = differences.numel() + 2
    mean = float(differences.sum()) / count
    return math.sqrt(max(0.0, (float(differences.square().sum()) + 1.0) / count - mean * mean) / count)


def _flat(scores: list[Tensor]) -> Tensor:
    """Return the scores in one row, where they are: only sums come back from an accelerator."""
    return torch.cat([part.reshape(-1).float() for part in scores]) if scores else torch.empty(0, device=CPU)
