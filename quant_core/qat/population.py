"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): learning rate and distillation weight evolve during training.

A population trains one policy, and its members take turns epoch by epoch in one process: the outcome depends on the seed alone, not on
which worker was faster. Members of other policies are not compared, since weights cannot be copied from them.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from quant_core.qat import QatConfig
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.distill import Distillation
from quant_core.qat.loop import Trainer, TrainingRun
from quant_core.qat.progress import History
from quant_core.qat.train import calibrated
from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.text import listed

PERTURB = (0.8, 1.2)  # factors of a copied value, appendix A of the paper
SPREAD = 3.0  # members begin with learning rates up to this factor away
QUARTER = 4  # the last quarter copies from the first (truncation selection, section 4.1.1)


@dataclass(frozen=True)
class PopulationConfig:
    """The size of a population and its selection.

    Attributes:
        members: number of networks that train; the first begins with the values of the configuration.
        every: epochs between two selections.
        by: the metric of the selection; smaller is better.

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
    run: TrainingRun,
    population: PopulationConfig,
    *,
    calib: Iterable[Any],
    start: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, History]:
    """Train a population under `policy`; return the best network, prepared and in eval mode, and its metrics of every epoch.

    Arguments as in `quant_core.qat.train.train`, but: the answer of `run.report` does not stop the training; the metrics have `distill`
    beside `lr`; `run.checkpoint` holds the outcome only, which is returned if it is there.

    Raises:
        InputError: as `train`; the metric of the selection is not reported.
        QatError: the loss of every member is not finite; a single such member takes over the state of another.
    """
    first, config = calibrated(model, policy, run.config, calib, start), run.config
    rng = np.random.default_rng([config.seed, population.members])
    configs = [config, *(_drawn(config, rng) for _ in range(population.members - 1))]
    members = [_member(copy.deepcopy(first), model, replace(run, config=values)) for values in configs]
    for member in members:
        member.identity = f"{config} {population}"
    try:
        best = _trained(members, population, rng, run.checkpoint)
    finally:
        for member in members:
            if member.distillation is not None:
                member.distillation.close()
    return best.model.eval(), best.progress.history


def _drawn(config: QatConfig, rng: np.random.Generator) -> QatConfig:
    """Return a member's first values: a learning rate around that of the configuration, a distillation weight from 0 to twice it."""
    distill = float(rng.uniform(0, min(1.0, 2 * config.distill or 0.5)))
    return replace(config, lr=float(config.lr * SPREAD ** rng.uniform(-1, 1)), distill=distill)


def _member(student: nn.Module, teacher: nn.Module, run: TrainingRun) -> Trainer:
    """Return a trainer whose reports have the distillation weight among the metrics and never stop it."""

    def report(network: nn.Module, metrics: dict[str, float]) -> bool:
        metrics["distill"] = trainer.config.distill
        if reported:
            reported(network, metrics)
        return False

    reported = run.report
    distillation = Distillation(student, teacher, run.config.temperature)
    trainer = Trainer(student, replace(run, report=report, checkpoint=None), distillation)
    return trainer


def _trained(
    members: Sequence[Trainer], population: PopulationConfig, rng: np.random.Generator, checkpoint: CheckpointConfig | None
) -> Trainer:
    """Return the best member at the end of the training, from the checkpoint where it holds it."""
    if checkpoint:
        members[0].resume(checkpoint)
    if not members[0].unfinished:
        return members[0]
    epochs, scores = members[0].config.epochs, [0.0]
    for epoch in range(1, epochs + 1):
        scores = _advance_all(members, population.by)
        if epoch < epochs:
            _select(members, scores, rng, due=epoch % population.every == 0)
    best = members[int(np.argmin(scores))]
    if checkpoint:
        best.save(checkpoint.path)
    return best


def _advance_all(members: Sequence[Trainer], by: str) -> list[float]:
    """Train every member for one epoch; return the metric `by` of all, infinity where the loss is not finite.

    Raises:
        BitfrontError: every member failed; the error of the first.
    """
    scores, errors = [], []
    for member in members:
        try:
            metrics = member.advance()
        except InputError:
            raise
        except BitfrontError as error:
            scores.append(math.inf)
            errors.append(error)
            continue
        if by not in metrics:
            raise InputError(f"a population is compared by {by!r}, which is not among what is reported: {listed(metrics)}.")
        scores.append(metrics[by])
    if len(errors) == len(members):
        raise errors[0]
    return scores


def _select(members: Sequence[Trainer], scores: Sequence[float], rng: np.random.Generator, *, due: bool) -> None:
    """Copy states of the first quarter, learning rate and distillation weight perturbed, to members whose training failed, and when it
    is `due` to the last quarter."""
    order = [int(i) for i in np.argsort(scores, kind="stable")]
    count = max(1, len(members) // QUARTER)
    donors = [i for i in order[:count] if math.isfinite(scores[i])]
    for last in (i for i in order[1:] if not math.isfinite(scores[i]) or (due and i in order[-count:])):
        donor = members[donors[int(rng.integers(len(donors)))]]
        distill = min(1.0, donor.config.distill * float(rng.choice(PERTURB)))
        members[last].take_over(donor, float(rng.choice(PERTURB)), distill)
