"""Sensitivities within a number of forward passes: gradients for all choices, measurements for those that matter to a plan."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quant_core.network.forward import examples_of
from quant_core.ptq.engine import PostTraining
from quant_core.util import rng
from quant_core.util.errors import BitfrontError, first_line
from search.evaluation.calibration import calibrated, worth_measuring
from search.evaluation.divergence import Reference
from search.evaluation.gradient import projection_passes, projections
from search.evaluation.one_out import Choice, OneOut, widest_choices
from search.evaluation.plans import SHARES, best_table
from search.problem.problem import FloatArray
from spaces.space import Space

DRAWS = 2
"""Random directions per example."""
GRADIENT_EXAMPLES = 64
"""Most examples that gradients are taken of, but for the rest of a part."""
FEW, FULL = 64, 30.0
"""Most choices that are measured one by one whatever that costs, where so many passes may be spent."""
PLANNED = 0.3
"""Share of the passes, at most, in which whole plans are measured."""
ROUNDS = 4
"""Most times that the choices to be measured are picked."""
STABLE = 0.99
"""Rank correlation of the rises before and after a batch from which on no further batch is measured."""
NOISE = 0.25
"""Relative standard error of a measured rise where a single batch does not tell it."""
Report = Callable[[int, int], None]


class NoGradientError(BitfrontError):
    """The network gives no gradients."""


@dataclass
class Spent:
    """Work done.

    Attributes:
        evaluations: forward passes begun, over the examples.
        equivalents: the cost of forward and backward passes, in forward passes over the examples; one that starts behind a prefix counts as
            its share of the multiply-accumulates.
        backward_passes: each over at most `Reference.part` examples.
    """

    evaluations: int = 0
    equivalents: float = 0.0
    backward_passes: int = 0

    def add(self, evaluations: int = 0, equivalents: float = 0.0, backward_passes: int = 0) -> None:
        """Add to each."""
        self.evaluations += evaluations
        self.equivalents += equivalents
        self.backward_passes += backward_passes


def exact(engine: PostTraining, space: Space, reference: Reference, spent: Spent, report: Report) -> tuple[FloatArray, ...]:
    """Return per dimension [K_d] the rise of the mean divergence, every choice measured on every batch."""
    widest = widest_choices(space)
    choices = {d: [k for k in range(count) if k != widest[d]] for d, count in enumerate(space.cardinalities)}
    sums, count, steps = [np.zeros(count) for count in space.cardinalities], 0, 0
    total = len(reference.batches) * len(choices)

    def done(cost: float) -> None:
        nonlocal steps
        steps += 1
        spent.add(equivalents=cost / len(reference.batches))
        report(steps, total)

    with torch.inference_mode():
        one_out = OneOut(engine, space, reference.compare)
        for inputs, wanted in zip(reference.batches, reference.outputs, strict=True):
            rises = one_out.rises(inputs, wanted, choices, done)
            sums = [summed + rises[d] for d, summed in enumerate(sums)]
            count += reference.compare(wanted, wanted)[1]
    spent.add(evaluations=sum(map(len, choices.values())), equivalents=1.0)
    return tuple(summed / count for summed in sums)


@dataclass(frozen=True, eq=False)
class GradientEstimates:
    """Rises by gradients, before any measurement.

    Attributes:
        rises: per dimension [K_d].
        errors: per dimension [K_d] relative standard errors of the mean over examples, at most 2.
        blind: dimensions that got no gradient although they may change the outputs.
    """

    rises: tuple[FloatArray, ...]
    errors: tuple[FloatArray, ...]
    blind: tuple[int, ...]


def estimated(
    engine: PostTraining, space: Space, reference: Reference, spent: Spent, examples: int = GRADIENT_EXAMPLES
) -> GradientEstimates:
    """Return the rises to second order, from gradients on `examples` examples, rounded up to parts.

    Raises:
        NoGradientError: the network cannot be differentiated, or every gradient is zero.
    """
    compare, generator = reference.compare, rng.generator(0)
    parts = reference.parts(min(reference.part, examples), examples)
    taken = sum(map(examples_of, parts))
    try:
        rows = projections(engine, space, parts, lambda outputs: compare.direction(outputs, generator), DRAWS)
    except (RuntimeError, NotImplementedError) as error:
        reason = first_line(error)
    else:
        reason = "" if any(row.any() for row in rows) else "every gradient is zero"
    if reason:
        raise NoGradientError(f"the network gives no gradients ({reason}); set evaluate.sensitivity = 'forward'.")
    cost = projection_passes(engine, space, DRAWS) * taken / reference.examples
    spent.add(evaluations=math.ceil(cost), equivalents=cost, backward_passes=DRAWS * len(parts))
    scale = DRAWS * reference.distributions * taken / reference.examples
    rises, errors = [], []
    for row, k in zip(rows, widest_choices(space), strict=True):
        halves = 0.5 * (row**2 - row[:, [k]] ** 2)
        mean = halves.mean(axis=0)
        deviation = halves.std(axis=0) / math.sqrt(len(halves))
        rises.append(halves.sum(axis=0) / scale)
        errors.append(np.minimum(np.divide(deviation, np.abs(mean), out=np.zeros_like(mean), where=mean != 0), 2.0))
    blind = [d for d, row in enumerate(rows) if len(row[0]) > 1 and not row.any() and _may_matter(engine, space, d)]
    return GradientEstimates(tuple(rises), tuple(errors), tuple(blind))


def _may_matter(engine: PostTraining, space: Space, d: int) -> bool:
    called, dimension = {layer.name for layer in engine.layers if layer.calls}, space.dimensions[d]
    return any(name in called if dimension.slot == "weight" else name in engine.statistics for name in dimension.layers)


def adaptive(
    engine: PostTraining, space: Space, reference: Reference, passes: float, spent: Spent, report: Report
) -> tuple[FloatArray, ...]:
    """Return per dimension [K_d] the rise of the mean divergence, estimated from gradients and calibrated by measurements.

    The calibrated rises are returned where their plans diverge less than those of the gradients alone, beyond the noise.

    Where all can be measured within `passes`, where at most `FEW` choices are to be measured and `passes` are `FULL`, and where the
    network gives no gradients (with a warning), the rises are `exact`. Dimensions without gradients in a network that has others are
    measured whatever they cost.

    Args:
        engine, space, reference: the network, its choices, and what it returns in float.
        passes: what may be spent, in forward passes over the examples.
        spent: is added to.
        report: is told the passes done and in all.
    """
    every = sum(space.cardinalities) - len(space.cardinalities)
    if every <= FEW and passes >= FULL:
        return exact(engine, space, reference, spent, report)
    search = _Measurements(engine, space, reference, passes, spent, report)
    if search.all_passes <= passes:
        return exact(engine, space, reference, spent, report)
    try:
        share = 0.5 * passes / projection_passes(engine, space, DRAWS)
        gradients = estimated(engine, space, reference, spent, max(1, min(GRADIENT_EXAMPLES, int(share * reference.examples))))
    except NoGradientError as error:
        warnings.warn(f"{error} Every choice is measured instead.", stacklevel=2)
        return exact(engine, space, reference, spent, report)
    return search.calibrated(gradients)


class _Measurements:
    """Picks and measures choices until the passes are spent."""

    def __init__(self, engine: PostTraining, space: Space, reference: Reference, passes: float, spent: Spent, report: Report) -> None:
        self._engine, self._space, self._reference = engine, space, reference
        self._passes, self._spent, self._report = passes, spent, report
        self._one_out = OneOut(engine, space, reference.compare)
        self._widest = widest_choices(space)
        self._slots = [dimension.slot for dimension in space.dimensions]
        self._costs = _costs(engine, space)
        with torch.inference_mode():
            self._shares = self._one_out.shares(reference.batches[0])
        spent.add(evaluations=1, equivalents=examples_of(reference.batches[0]) / reference.examples)

    @property
    def all_passes(self) -> float:
        """What measuring every choice costs: the float network, the widest choices, and every choice behind its prefix."""
        counts = [count - 1 for count in self._space.cardinalities]
        return 2.0 + sum(count * share for count, share in zip(counts, self._shares, strict=True))

    def calibrated(self, gradients: GradientEstimates) -> tuple[FloatArray, ...]:
        """Return the gradients' estimates on the scale of the measured rises, and these where there are any."""
        measured: dict[Choice, float] = {(d, k): 0.0 for d, k in enumerate(self._widest)}
        self._noise: dict[Choice, float] = {}
        without = [(d, k) for d in gradients.blind for k in range(self._space.cardinalities[d]) if k != self._widest[d]]
        measured |= self._measure(without) if without else {}
        budgets = min(len(SHARES), int(self._passes * PLANNED / 2))
        for number in range(ROUNDS):
            estimates = calibrated(gradients.rises, gradients.errors, self._slots, measured, self._noise)
            left = self._passes - self._spent.equivalents - 1.0 - 2.0 * budgets
            picked = worth_measuring(estimates, self._costs, self._slots, self._shares, left / 2 if number == 0 else left)
            if not picked:
                break
            measured |= self._measure(picked)
        fitted = calibrated(gradients.rises, gradients.errors, self._slots, measured, self._noise).rises
        alone = tuple(fitted[d] if d in gradients.blind else row for d, row in enumerate(gradients.rises))
        budgets = min(len(SHARES), max(0, int((self._passes - self._spent.equivalents) / 2))) if budgets else 0
        rises = best_table(self._engine, self._space, self._reference, (alone, fitted), self._costs, budgets, self._planned)
        self._report(math.ceil(self._passes), math.ceil(self._passes))
        return tuple(rises)

    def _planned(self, cost: float) -> None:
        self._spent.add(evaluations=1)
        self._done(cost)

    def _measure(self, picked: Sequence[Choice]) -> dict[Choice, float]:
        """Measure choices on as many batches as it takes until their order is stable."""
        previous: FloatArray | None = None
        choices: dict[int, list[int]] = {}
        for d, k in sorted(picked):
            choices.setdefault(d, []).append(k)
        sums, count, means = np.zeros(len(picked)), 0, []
        with torch.inference_mode():
            for inputs, wanted in zip(self._reference.batches, self._reference.outputs, strict=True):
                share = examples_of(inputs) / self._reference.examples
                rises = self._one_out.rises(inputs, wanted, choices, self._done_on(share))
                self._done(share)
                batch, size = np.array([rises[d][k] for d, k in sorted(picked)]), self._reference.compare(wanted, wanted)[1]
                sums, count = sums + batch, count + size
                means.append(batch / size)
                if previous is not None and _rank_correlation(previous, sums) >= STABLE:
                    break
                previous = sums
        self._spent.add(evaluations=1 + len(picked))
        self._noise |= self._errors(sorted(picked), np.stack(means))
        return dict(zip(sorted(picked), (sums / count).tolist(), strict=True))

    def _errors(self, picked: Sequence[Choice], means: FloatArray) -> dict[Choice, float]:
        """Return the relative standard errors of rises measured on batches, `means` [B, P]: one for all choices of a slot, their median."""
        errors: dict[Choice, float] = {}
        for slot in dict.fromkeys(self._slots):
            at = [n for n, (d, _) in enumerate(picked) if self._slots[d] == slot]
            rows = means[:, at][:, means[:, at].mean(axis=0) > 0]
            if rows.size and len(rows) > 1:
                error = float(np.median(rows.std(axis=0, ddof=1) / rows.mean(axis=0))) / math.sqrt(len(rows))
            else:
                error = NOISE
            errors |= {picked[n]: error for n in at}
        return errors

    def _done_on(self, share: float) -> Callable[[float], None]:
        return lambda cost: self._done(cost * share)

    def _done(self, cost: float) -> None:
        self._spent.add(equivalents=cost)
        self._report(min(int(self._spent.equivalents), math.ceil(self._passes)), math.ceil(self._passes))


def _costs(engine: PostTraining, space: Space) -> list[FloatArray]:
    """Return per dimension [K_d] the bits that a choice stores or reads, which stand for any device's cost in picking measurements."""
    layers = {layer.name: layer for layer in engine.layers}
    sizes = [
        sum(layers[name].weights if dimension.slot == "weight" else layers[name].in_elements for name in dimension.layers)
        for dimension in space.dimensions
    ]
    bits = [np.array([choice.bits for choice in dimension.choices], dtype=np.float64) for dimension in space.dimensions]
    return [row * size for row, size in zip(bits, sizes, strict=True)]


def _rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Return Spearman's rank correlation; 0 of fewer than three values."""
    if len(a) < 3:
        return 0.0
    ranks = np.stack([np.argsort(np.argsort(values, kind="stable")) for values in (a, b)]) - (len(a) - 1) / 2
    return float(ranks[0] @ ranks[1] / (ranks[0] @ ranks[0]))
