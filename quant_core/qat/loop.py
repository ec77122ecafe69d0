"""The training loop: deterministic by seed, and resumable in the middle of an epoch, bit for bit."""

import copy
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quant_core.network.batch_norms import tracked
from quant_core.network.forward import forward, to_device
from quant_core.qat import QatConfig, QatError, checkpoint
from quant_core.qat.batch_norm import BATCHES, reestimate
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.diagnose import first_non_finite
from quant_core.qat.distill import Distillation
from quant_core.qat.optimizers import make_optimizer, make_schedule
from quant_core.qat.prepare import constrain, input_quantizers
from quant_core.qat.progress import History, Progress, count_batches
from quant_core.util import rng
from quant_core.util.errors import InputError

logger = logging.getLogger(__name__)

Step = Callable[[nn.Module, Any], Tensor]
Report = Callable[[nn.Module, dict[str, float]], bool]


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """The data, the step and the configuration of a training run: everything but the network.

    Attributes:
        batches: the training split, re-iterable, for `step`; without a length it is counted by a pass. Tensors are moved to the device of
            the network. A list is taken in a new order every epoch; other iterables in their own (a DataLoader shuffles itself).
        step: (model, batch) -> loss, such as `supervised(loss)`.
        config: how to train.
        report: called after every epoch with the network in eval mode and `epoch`, `loss` (mean over its steps), `lr`, `seconds`; the
            history holds the metrics that it adds; it returns True to stop the training.
        checkpoint: a run that finds its file resumes from it.
    """

    batches: Iterable[Any]
    step: Step
    config: QatConfig
    report: Report | None = None
    checkpoint: CheckpointConfig | None = None


def supervised(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """Return the training step of batches (inputs, targets) and a loss (outputs, targets) -> scalar."""

    def step(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return loss(forward(model, inputs), targets)

    return step


def fit(model: nn.Module, run: TrainingRun, teacher: nn.Module | None = None) -> tuple[nn.Module, History]:
    """Train a prepared network in place.

    All random numbers (torch, numpy, Python) are the run's own, seeded anew for every epoch, and as before afterwards.

    Args:
        model: from `prepare`.
        run: how, and on which batches.
        teacher: the float network; needed where `run.config.distill` > 0.

    Returns:
        The network in eval mode and the metrics of every epoch.

    Raises:
        InputError: no batches, no teacher for the distillation, or the checkpoint of another run.
        QatError: the loss is not finite; the first layer with a value that is not finite is named.
    """
    history = list(epochs(model, run, teacher))
    return model.eval(), history


def epochs(model: nn.Module, run: TrainingRun, teacher: nn.Module | None = None) -> Iterator[dict[str, float]]:
    """Train as `fit` does and yield the metrics of every epoch, those in the checkpoint first; an epoch is trained when it is asked for.

    Raises:
        InputError, QatError: as `fit`.
    """
    config = run.config
    if config.distill and teacher is None:
        raise InputError(f"distill = {config.distill} given without a teacher; give the float network or distill = 0.")
    distillation = Distillation(model, teacher, config.temperature) if teacher is not None and config.distill else None
    try:
        trainer = Trainer(model, run, distillation)
        generators = trainer.resume(run.checkpoint) if run.checkpoint else None
        yield from trainer.progress.history
        while trainer.unfinished:
            yield trainer.advance(generators)
            generators = None
    finally:
        if distillation is not None:
            distillation.close()


class Trainer:
    """One network in training: its optimiser, its schedule, and its progress."""

    def __init__(self, model: nn.Module, run: TrainingRun, distillation: Distillation | None = None) -> None:
        self.model, self.run, self.config, self.distillation = model, run, run.config, distillation
        config = run.config
        self.per_epoch = count_batches(run.batches)
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config.epochs * self.per_epoch, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.autocast == "float16")
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.freeze_epoch = math.ceil(config.freeze_after * config.epochs)
        self.progress = Progress()
        sizes = f"{len(self.parameters)} parameters of {sum(p.numel() for p in self.parameters)} values, {self.per_epoch} batches"
        self.identity = f"{asdict(config)}, {sizes}"

    @property
    def unfinished(self) -> bool:
        """True until the epochs are over or the report stopped the training."""
        return self.progress.epoch < self.config.epochs and not self.progress.stopped

    def advance(self, generators: rng.State | None = None) -> dict[str, float]:
        """Train one epoch, or the rest of it from `generators` on, which `resume` returned; return its metrics."""
        with rng.private():
            self._epoch(generators)
            self._finish_epoch()
            if self.run.checkpoint:
                self.save(self.run.checkpoint.path)
        return self.progress.history[-1]

    def _epoch(self, generators: rng.State | None) -> None:
        """Take the steps of one epoch that are left; `generators` are the states at which the epoch was interrupted."""
        self._start = time.perf_counter()
        if self.progress.epoch == self.freeze_epoch and not self.progress.position:
            self._reestimate()
        self._set_mode()
        rng.seed(self.config.seed, self.progress.epoch)
        batches = self._ordered()
        for _ in itertools.islice(batches, self.progress.position):
            pass  # trained before the interruption
        if generators is not None:
            rng.restore(generators)
        for batch in batches:
            self.progress.loss += self._take(batch)
            self.progress.position += 1
            self._save_when_due()
        self.progress.check_length(self.per_epoch)

    def _save_when_due(self) -> None:
        """Write the checkpoint where its number of steps is over within the epoch."""
        config, position = self.run.checkpoint, self.progress.position
        if config and config.every and position % config.every == 0 and position < self.per_epoch:
            self.save(config.path)

    def _set_mode(self) -> None:
        """Set train mode, with batch norm and ranges frozen in the last epochs."""
        self.model.train()
        frozen = self.progress.epoch >= self.freeze_epoch
        for quantizer in input_quantizers(self.model).values():
            quantizer.tracking = not frozen
        for norm in tracked(self.model) if frozen else ():
            norm.eval()

    def _reestimate(self) -> None:
        """Estimate the statistics of batch norm anew, over batches in an order of their own."""
        rng.seed(self.config.seed, self.progress.epoch, 1)
        batches = (to_device(batch, self.device) for batch in itertools.islice(self._ordered(), BATCHES))
        reestimate(self.model, self._loss, batches)

    def _ordered(self) -> Iterator[Any]:
        if isinstance(self.run.batches, Sequence):
            return (self.run.batches[i] for i in torch.randperm(len(self.run.batches)).tolist())
        return iter(self.run.batches)

    def _take(self, batch: Any) -> float:
        """Take one step and return its loss."""
        batch = to_device(batch, self.device)
        loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            self._fail(batch, f"the loss is {value}")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        constrain(self.model)
        return value

    def _loss(self, batch: Any) -> Tensor:
        dtype = getattr(torch, self.config.autocast) if self.config.autocast else None
        if self.distillation is not None:
            self.distillation.forget()
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None), parametrize.cached():
            try:
                loss = self.run.step(self.model, batch)
            except InputError as error:
                self._fail(batch, str(error))
            if self.distillation is not None:
                share = self.config.distill
                loss = (1.0 - share) * loss + share * self.distillation.loss()
        return loss

    def _fail(self, batch: Any, fault: str) -> None:
        where = first_non_finite(self.model, lambda: self.run.step(self.model, batch))
        raise QatError(
            f"epoch {self.progress.epoch + 1}, batch {self.progress.position + 1}: {fault}; {where}. Try a lower lr or clip = 1."
        )

    def _finish_epoch(self) -> None:
        progress = self.progress
        if progress.epoch + 1 == self.config.epochs == self.freeze_epoch:
            self._reestimate()
        self.model.eval()
        metrics = {
            "epoch": float(progress.epoch + 1),
            "loss": progress.loss / progress.position,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": time.perf_counter() - self._start,
        }
        progress.stopped = self.run.report(self.model, metrics) if self.run.report else False
        logger.info("qat: epoch %d of %d, loss %.4f, %.1f s", progress.epoch + 1, self.config.epochs, metrics["loss"], metrics["seconds"])
        progress.history.append(metrics)
        progress.epoch, progress.position, progress.loss = progress.epoch + 1, 0, 0.0

    def save(self, path: Path) -> None:
        """Write the state to a file."""
        checkpoint.save(path, self.identity, self._state() | {"rng": rng.capture()})

    def resume(self, config: CheckpointConfig) -> rng.State | None:
        """Restore the state of a file, if there is one; return the states of the random generators where it is inside an epoch.

        Raises:
            InputError: the file is damaged or of another run, and not cached.
        """
        before = copy.deepcopy(self._state()) if config.cached and config.path.exists() else None
        try:
            state: Any = checkpoint.load(config.path, self.identity)
            if state is None:
                return None
            self._set_state(state)
            checkpoint.require_numbers(config.path, self.model)
            generators: rng.State = state["rng"]
        except (InputError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            if before is None:
                raise
            self._set_state(before)
            logger.warning("%s is not used (%s): training anew", config.path, str(error).partition("\n")[0])
            return None
        logger.info("qat: resuming at epoch %d, batch %d of %s", self.progress.epoch + 1, self.progress.position + 1, config.path)
        return generators if self.progress.position else None

    def take_over(self, other: "Trainer", lr_factor: float, distill: float) -> None:
        """Copy the state of another trainer of the same network, with its learning rate times `lr_factor` and another `distill`."""
        self._set_state(copy.deepcopy(other._state()))
        for group in self.optimizer.param_groups:
            group["lr"] *= lr_factor
            group["initial_lr"] *= lr_factor
        self.schedule.base_lrs = [lr * lr_factor for lr in self.schedule.base_lrs]
        self.config = replace(self.config, lr=other.config.lr * lr_factor, distill=distill)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }

    def _set_state(self, state: Any) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
