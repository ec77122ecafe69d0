"""Races on the validation split: an evaluation stops where it is worse, on the examples so far, than an incumbent on the same ones.

After an eighth of the examples, then after half of them (the nearest ends of batches), the paired differences with the incumbent are
tested one-sidedly: Student's t of the losses; of scores with half an example added to the gains and half to the losses, as in
`search.evaluation.paired`. Both looks together stop a policy that is as good as the incumbent with a probability of at most 1 - confidence
(Bonferroni). A policy that goes to the end runs through the same batches in the same order as without a race, once.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from quant_core.network.cutting import rows
from quant_core.util.devices import CPU
from quant_core.util.errors import BitfrontError, first_line
from search.evaluation.paired import standard_error
from search.records.result import Result
from search.tasks.batches import size_of
from search.tasks.losses import batch_loss
from search.tasks.metrics.state import Judged
from search.tasks.task import Task

SHARES = (0.125, 0.5)
"""Of the validation examples, after which a policy is compared with its incumbent."""
FEWEST = 8
"""Examples that a comparison needs."""
NEAR = 1e-3
"""Relative difference that the mean over examples may have from the figure that it stands for."""


@dataclass(eq=False)
class Course:
    """How bad a policy is on the validation examples, one by one in their order.

    Attributes:
        of: what `values` are: "error" (one less the score) or "loss".
        values: [N] of every example; a part of it while the evaluation runs.
        weights: [N] of every example in the mean.
        figures: examples so far -> the figure that is minimized, of these; only where `values` are another one.
    """

    of: str = ""
    values: Tensor = field(default_factory=lambda: torch.empty(0, device=CPU))
    weights: Tensor = field(default_factory=lambda: torch.empty(0, device=CPU))
    figures: dict[int, float] = field(default_factory=dict)

    def mean(self) -> float:
        """Return the weighted mean of the values."""
        return float((self.values.double() * self.weights).sum() / self.weights.double().sum())


@dataclass(frozen=True, eq=False)
class Incumbent:
    """A measured policy that others are compared with.

    Attributes:
        number: of its trial.
        figure: what is minimized, on all examples.
        course: on all examples.
    """

    number: int
    figure: float
    course: Course


class OutrunError(Exception):
    """A policy is worse than its incumbent on the examples so far; `estimate` is the minimized figure expected on all, by its name."""

    def __init__(self, reason: str, examples: int, estimate: Mapping[str, float], figures: Mapping[str, float]) -> None:
        super().__init__(reason)
        self.examples, self.estimate, self.figures = examples, estimate, figures

    def of(self, result: Result) -> Result:
        """Return the result of the evaluation that ended so."""
        seen, estimate = dict(self.figures), dict(self.estimate)
        return replace(result, metrics=seen, status="stopped", reason=str(self), examples=self.examples, estimate=estimate)


class UnfitError(BitfrontError):
    """The task has no figure of single examples: nothing can be raced."""


class Watch:
    """Follows one evaluation over the validation split, and ends it where it is outrun.

    Attributes:
        course: of the evaluation.
        looks: how often it was compared, or would have been with an incumbent.

    Args:
        task: of the network.
        objective: "error" or "loss": what is minimized.
        total: examples of the split.
        incumbent: to be compared with; None: it goes to the end.
        confidence: of all looks together.
    """

    def __init__(self, task: Task, objective: str, total: int, incumbent: Incumbent | None = None, confidence: float = 0.95) -> None:
        self.course, self.looks = Course(), 0
        self._task, self._objective, self._total, self._incumbent = task, objective, total, incumbent
        self._level = 1.0 - (1.0 - confidence) / len(SHARES)
        self._targets = [share * total for share in SHARES]

    def add(self, batch: Judged, scores: Tensor | None, figures: Callable[[], Mapping[str, float]]) -> None:
        """Take one batch that was judged.

        Args:
            batch: outputs and targets.
            scores: in [0, 1], of the batch; None where the metric has none.
            figures: returns all figures of the examples so far.

        Raises:
            OutrunError: the evaluation is worse than its incumbent.
            UnfitError: there is no figure of single examples.
        """
        course, (of, values, weights) = self.course, example_values(self._task, batch, scores, self._objective)
        course.of = of
        course.values, course.weights = torch.cat([course.values, values]), torch.cat([course.weights, weights])
        count = len(course.values)
        due = [target for target in self._targets if count + len(values) / 2 >= target]
        self._targets = self._targets[len(due) :]
        if not due or count >= self._total or count < FEWEST:
            return
        self.looks += 1
        if of != self._objective and self._objective in (now := _numbers(figures)):
            course.figures[count] = now[self._objective]
        if self._incumbent is not None:
            self._compare(self._incumbent, count, figures)

    def _compare(self, incumbent: Incumbent, count: int, figures: Callable[[], Mapping[str, float]]) -> None:
        theirs, ours = incumbent.course, self.course
        if len(theirs.values) < count or theirs.of != ours.of:
            return
        mean, error = paired(ours.values - theirs.values[:count], ours.weights, scores=ours.of == "error")
        if not mean > error * float(stdtrit(count - 1, self._level)):
            return
        rise = mean
        if ours.of != self._objective:
            if count not in ours.figures or count not in theirs.figures:
                return
            rise = max(0.0, ours.figures[count] - theirs.figures[count])
        said = (
            f"stopped after {count} of {self._total} validation examples: {ours.of} {mean:.3g} (standard error {error:.2g}) above "
            f"trial {incumbent.number}, which costs no more"
        )
        raise OutrunError(said, count, {self._objective: incumbent.figure + rise}, _numbers(figures))


def paired(differences: Tensor, weights: Tensor, *, scores: bool) -> tuple[float, float]:
    """Return the weighted mean of paired differences [N], and its standard error; of scores both with one example more."""
    differences, weights = differences.double(), weights.double()
    if scores:
        return float(differences.sum()) / (len(differences) + 2), standard_error(differences)
    total, count = float(weights.sum()), len(differences)
    mean = float((weights * differences).sum()) / total
    spread = float((weights * (differences - mean)).square().sum()) * count / (count - 1)
    return mean, math.sqrt(spread) / total


def example_values(task: Task, batch: Judged, scores: Tensor | None, objective: str) -> tuple[str, Tensor, Tensor]:
    """Return "error" or "loss", whichever is compared, its values on a batch and their weights, [N] each.

    The error of every example where that is minimized and the metric scores examples one by one; else their losses.

    Raises:
        UnfitError: the loss of single examples cannot be computed.
    """
    size = size_of(batch.outputs, batch.targets)
    if objective == "error" and scores is not None and scores.shape == (size,) and batch.weights is None:
        return "error", 1.0 - scores.detach().float().to(CPU), torch.ones(size, device=CPU)
    cross_entropy = task.loss is nn.functional.cross_entropy and not task.judges
    if cross_entropy and batch.outputs.dim() == 2 and batch.targets.dim() == 1:
        losses = nn.functional.cross_entropy(batch.outputs, batch.targets, reduction="none")
        return "loss", losses.float().to(CPU), torch.ones(size, device=CPU)
    try:
        pairs = [_example_loss(task, batch, n) for n in range(size)]
    except Exception as error:
        raise UnfitError(f"the loss of single examples fails with {first_line(error)}") from error
    losses, weights = torch.tensor(pairs, dtype=torch.float32, device=CPU).reshape(-1, 2).T
    return "loss", losses, weights


def _example_loss(task: Task, batch: Judged, n: int) -> tuple[float, float]:
    """Return the loss of one example and its weight; an example without anything to judge weighs nothing."""
    outputs, targets, weights = (rows(part, n, 1) for part in (batch.outputs, batch.targets, batch.weights))
    if not task.judges:
        return float(task.loss(outputs, targets)), 1.0
    part = batch_loss(task, Judged(outputs, targets, weights, axis=batch.axis, place=f"example {n + 1} of {batch.place}"))
    return (0.0, 0.0) if part is None else (float(part[0]), part[1])


def _numbers(figures: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """Return the figures of the examples so far; none where one is no number yet, as the correlation of constant outputs."""
    try:
        return figures()
    except BitfrontError:
        return {}


def check(watch: Watch, metrics: Mapping[str, float]) -> None:
    """Refuse a whole evaluation whose course does not stand for what is measured.

    Raises:
        UnfitError: no example weighs anything, or their mean is not the figure of all, as of a loss that compares examples of a batch; or
            no batch ended before the last one.
    """
    course = watch.course
    if not watch.looks:
        raise UnfitError(f"{len(course.values)} validation examples come in batches that are too large to stop between them")
    if not float(course.weights.sum()) > 0:
        raise UnfitError("no loss fits the targets")
    mean, whole = course.mean(), metrics[course.of]
    if not abs(mean - whole) <= NEAR * max(abs(whole), abs(mean)) + 1e-6:
        raise UnfitError(f"the {course.of} of all is {whole:.6g}, and the mean over single examples {mean:.6g}")
