"""Running what was exported on the test split, beside the simulation that the search measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.errors import BitfrontError
from quant_core.forward import forward
from search.evaluator import take
from search.exporters import Bundle

Run = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Compared:
    """A runtime's outputs on the test split against the simulation's.

    Attributes:
        accuracy: in the runtime.
        top1_agreement: share of predictions with the same largest output.
        difference: the largest difference of any output.
        largest: the largest magnitude of any output of the simulation.
        count: predictions compared.
    """

    accuracy: float
    top1_agreement: float
    difference: float
    largest: float
    count: int

    @property
    def checks(self) -> dict[str, float | str]:
        """The figures under the names that a report has."""
        return {
            "accuracy_test": self.accuracy,
            "top1_agreement": self.top1_agreement,
            "largest_output_difference": self.difference,
            "largest_output": self.largest,
            "predictions": float(self.count),
        }

    def within(self, agreement: float, difference: float) -> bool:
        """Tell whether top-1 agrees on a share of `agreement`, and outputs up to `difference` times the largest output."""
        return self.top1_agreement >= agreement and self.difference <= difference * self.largest


def compare(bundle: Bundle, run: Run) -> Compared:
    """Run `run` and the simulation on the test split.

    Raises:
        BitfrontError: outputs of another shape, or not finite.
    """
    model = bundle.evaluator.engine.apply(bundle.policy)
    score = difference = largest = 0.0
    scored = agreed = count = 0
    with torch.inference_mode():
        for inputs, targets in take(bundle.task.test, bundle.experiment.evaluate.test):
            wanted, found = forward(model, inputs), run(inputs)
            if wanted.shape != found.shape or not bool(torch.isfinite(found).all()):
                raise BitfrontError(
                    f"the exported network gave outputs of shape {tuple(found.shape)}, finite ones of {tuple(wanted.shape)} are due."
                )
            scores = bundle.task.score(found, targets)
            score, scored = score + float(scores.sum()), scored + scores.numel()
            difference, largest = max(difference, float((found - wanted).abs().max())), max(largest, float(wanted.abs().max()))
            same = _top(found) == _top(wanted)
            agreed, count = agreed + int(same.sum()), count + same.numel()
    return Compared(score / scored, agreed / count, difference, largest, count)


def _top(outputs: Tensor) -> Tensor:
    """Return the position of the largest output: over axis 1 of images, over the last of sequences [N, T, V]."""
    return outputs.argmax(dim=-1 if outputs.dim() == 3 else 1)
