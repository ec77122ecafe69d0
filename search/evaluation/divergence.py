"""How far outputs lie from the float network's: the Kullback-Leibler divergence, its samples and its curvature."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from quant_core.network.cutting import cut
from quant_core.network.forward import examples_of

PART = 16
"""Most examples per backward pass."""


@dataclass(frozen=True)
class ClassDivergence:
    """Kullback-Leibler divergence of the softmax along one axis, summed."""

    axis: int

    def __call__(self, outputs: Tensor, wanted: Tensor) -> tuple[float, int]:
        """Return the sum over all distributions, and how many there are."""
        return float(self.summed(outputs, wanted)), wanted.numel() // wanted.shape[self.axis]

    def summed(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Return the sum over all distributions, with its gradient."""
        log_p, log_q = wanted.log_softmax(dim=self.axis), outputs.log_softmax(dim=self.axis)
        return (log_p.exp() * (log_p - log_q)).sum()

    def sampled_nll(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the summed negative log-likelihood of labels drawn from the outputs."""
        rows = outputs.log_softmax(dim=self.axis).movedim(self.axis, -1).flatten(end_dim=-2)
        labels = torch.multinomial(rows.detach().exp().to(generator.device), 1, generator=generator).to(rows.device)
        return -rows.gather(1, labels).sum()

    def direction(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return random v of the outputs' shape with E[v v'] = diag(p) - p p', the Hessian of the divergence in the logits.

        v = (diag(r) - p r') n with r the square root of p and n standard normal. Its variance does not grow where p is nearly certain, as
        that of the gradient of a sampled label does.
        """
        p = outputs.softmax(dim=self.axis)
        scaled = p.sqrt() * _noise(outputs, generator)
        return scaled - p * scaled.sum(dim=self.axis, keepdim=True)


@dataclass(frozen=True)
class ValueDivergence:
    """Kullback-Leibler divergence of Gaussians around the values, of one variance, summed: half the relative squared error."""

    variance: float

    def __call__(self, outputs: Tensor, wanted: Tensor) -> tuple[float, int]:
        """Return the sum over all values, and how many there are."""
        return float(self.summed(outputs.double(), wanted.double())), wanted.numel()

    def summed(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Return the sum over all values, with its gradient."""
        return (outputs - wanted).square().sum() / (2 * self.variance)

    def sampled_nll(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return a sum whose gradient is that of the negative log-likelihood of values drawn around the outputs."""
        noise: Tensor = (outputs * _noise(outputs, generator)).sum() / self.variance**0.5
        return noise

    def direction(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return random v of the outputs' shape with E[v v'] = I / variance, the Hessian of the divergence in the values."""
        scaled: Tensor = _noise(outputs, generator) / self.variance**0.5
        return scaled


Divergence = ClassDivergence | ValueDivergence


def class_divergence(outputs: Tensor, axis: int | None) -> ClassDivergence | None:
    """Return the divergence of outputs that hold the logits of classes along an axis; None where they have no such axis of two or more."""
    fits = axis is not None and -outputs.dim() <= axis < outputs.dim() and outputs.shape[axis] > 1
    return ClassDivergence(axis) if axis is not None and fits else None


def _noise(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal values of the outputs' shape, drawn where the generator is."""
    return torch.randn(outputs.shape, generator=generator, device=generator.device).to(outputs)


@dataclass(frozen=True)
class Reference:
    """What the float network returns on the examples that sensitivities are taken from.

    Attributes:
        batches: model inputs.
        outputs: of the float network, per batch.
        class_axis: axis of the outputs that holds the logits of classes; None: the outputs are values.
        part: examples per backward pass.
    """

    batches: Sequence[Any]
    outputs: Sequence[Tensor]
    class_axis: int | None
    part: int = PART

    @cached_property
    def examples(self) -> int:
        """How many examples there are."""
        return sum(map(examples_of, self.batches))

    @cached_property
    def compare(self) -> Divergence:
        """The divergence of outputs from the float network's, (outputs, reference) -> (sum, how many distributions)."""
        if (classes := class_divergence(self.outputs[0], self.class_axis)) is not None:
            return classes
        values = torch.cat([outputs.flatten() for outputs in self.outputs]).double()
        return ValueDivergence(float(values.var(correction=0).clamp_min(1e-12)))

    @cached_property
    def distributions(self) -> int:
        """How many distributions the outputs hold: rows of logits, or values."""
        return sum(self.compare(outputs, outputs)[1] for outputs in self.outputs)

    def parts(self, size: int, examples: int | None = None) -> list[Any]:
        """Return the batches cut into parts of at most `size` examples, up to `examples` in all, or a part more."""
        parts, taken = [], 0
        for part in cut(self.batches, size):
            if examples is None or taken < examples:
                parts.append(part)
                taken += examples_of(part)
        return parts
