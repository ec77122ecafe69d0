"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): learning rate and distillation weight are bred while they train.

A population trains one policy, its members take turns epoch by epoch in one process: what comes out depends on the seed alone, not on
which worker was faster, and members of other policies, which could lend no weights, are not compared.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from quant_core.qat import QatConfig
from quant_core.qat.distill import Distillation
from quant_core.qat.loop import CheckpointConfig, Report, Run, Step
from quant_core.qat.train import calibrated
from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError, InputError

PERTURB = (0.8, 1.2)  # factors of a copied value, appendix A of the paper
SPREAD = 3.0  # members begin with learning rates up to this factor away
QUARTER = 4  # the last quarter copies from the first (truncation selection, section 4.1.1)


@dataclass(frozen=True)
class PopulationConfig:
    """How a population is bred.

    Attributes:
        members: how many train; the first begins with the values of the configuration.
        every: epochs between two selections.
        by: metric that is compared, smaller is better.

    Raises:
        InputError: fewer than two members, or not one epoch.
    """

    members: int = 4
    every: int = 1
    by: str = "loss_valid"

    def __post_init__(self) -> None:
        if self.members < 2 or self.every < 1:
            raise InputError(f"members = {self.members}, every = {self.every} given; 2 or more members and 1 or more epochs are needed.")


def train(
    model: nn.Module,
    policy: Policy,
    batches: Iterable[Any],
    step: Step,
    config: QatConfig,
    breeding: PopulationConfig,
    *,
    calib: Iterable[Any],
    start: Mapping[str, Tensor] | None = None,
    report: Report | None = None,
    saving: CheckpointConfig | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a population under `policy`; return the best network, prepared and in eval mode, and its metrics of every epoch.

    Arguments as in `quant_core.qat.train.train`, but: what `report` returns is not asked for; the metrics have `distill` beside `lr`;
    `saving` keeps the outcome only, and gives it back when it is there.

    Raises:
        InputError: as `train`; a metric to compare by that is not reported.
        QatError: the loss of every member is not finite; a single one takes over another's state.
    """
    first = calibrated(model, policy, config, calib, start)
    rng = np.random.default_rng([config.seed, breeding.members])
    configs = [config, *(_drawn(config, rng) for _ in range(breeding.members - 1))]
    students = [copy.deepcopy(first) for _ in configs]
    distillations = [Distillation(student, model, config.temperature) for student in students]
    runs = [Run(own, batches, step, each, lessons) for own, each, lessons in zip(students, configs, distillations, strict=True)]
    for run in runs:
        run.identity = f"{config} {breeding}"
    if saving:
        runs[0].resume(saving)
    try:
        for epoch in range(runs[0].progress.epoch + 1, config.epochs + 1):
            scores = _advanced(runs, report, breeding.by)
            if epoch < config.epochs:
                _select(runs, scores, rng, due=epoch % breeding.every == 0)
                continue
            runs[0] = runs[int(np.argmin(scores))]
            if saving:
                runs[0].save(saving)
    finally:
        for distillation in distillations:
            distillation.close()
    return runs[0].model.eval(), runs[0].progress.history


def _drawn(config: QatConfig, rng: np.random.Generator) -> QatConfig:
    """Return a member's first values: a learning rate around that of the configuration, a distillation weight from 0 to twice it."""
    distill = float(rng.uniform(0, min(1.0, 2 * config.distill or 0.5)))
    return replace(config, lr=float(config.lr * SPREAD ** rng.uniform(-1, 1)), distill=distill)


def _advanced(runs: Sequence[Run], report: Report | None, by: str) -> list[float]:
    """Train every member for one epoch; return what they are compared by, infinity where training broke.

    Raises:
        BitfrontError: it broke everywhere; that of the first member.
    """
    scores, errors = [], []
    for run in runs:
        try:
            scores.append(_advance(run, report, by))
        except InputError:
            raise
        except BitfrontError as error:
            scores.append(math.inf)
            errors.append(error)
    if len(errors) == len(runs):
        raise errors[0]
    return scores


def _advance(run: Run, report: Report | None, by: str) -> float:
    """Train one member for one epoch; return what it is compared by."""

    def reported(network: nn.Module, metrics: dict[str, float]) -> bool:
        metrics["distill"] = run.config.distill
        if report:
            report(network, metrics)
        return False

    metrics = run.advance(reported)
    if by not in metrics:
        raise InputError(f"a population is compared by {by!r}, which is not among what is reported: {', '.join(metrics)}.")
    return metrics[by]


def _select(runs: Sequence[Run], scores: Sequence[float], rng: np.random.Generator, *, due: bool) -> None:
    """Let members go on from the states of the first quarter, learning rate and distillation weight perturbed: broken ones, and when it
    is `due` the last quarter."""
    order = [int(i) for i in np.argsort(scores, kind="stable")]
    count = max(1, len(runs) // QUARTER)
    donors = [i for i in order[:count] if math.isfinite(scores[i])]
    for last in (i for i in order[1:] if not math.isfinite(scores[i]) or (due and i in order[-count:])):
        donor = runs[donors[int(rng.integers(len(donors)))]]
        distill = min(1.0, donor.config.distill * float(rng.choice(PERTURB)))
        runs[last].take_over(donor, float(rng.choice(PERTURB)), distill)
