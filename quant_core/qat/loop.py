"""The training loop: deterministic by seed, and resumable in the middle of an epoch, bit for bit."""

import copy
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quant_core.network.forward import forward, to_device
from quant_core.qat import QatConfig, QatError, checkpoint, rng
from quant_core.qat.batch_norm import BATCHES, reestimate, tracked
from quant_core.qat.diagnose import first_non_finite
from quant_core.qat.distill import Distillation
from quant_core.qat.optimizers import make_optimizer, make_schedule
from quant_core.qat.prepare import constrain, input_quantizers
from quant_core.util.errors import InputError

logger = logging.getLogger(__name__)

Step = Callable[[nn.Module, Any], Tensor]
Report = Callable[[nn.Module, dict[str, float]], bool]


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Where a run is kept, so that a killed one goes on: the file, and after how many steps it is written (0: after every epoch)."""

    path: Path
    every: int = 0


@dataclass
class Progress:
    """Where a run stands: the next batch of the present epoch, the sum of the epoch's losses, the metrics of the epochs before."""

    epoch: int = 0
    position: int = 0
    loss: float = 0.0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


def supervised(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """Return the training step of batches (inputs, targets) and a loss (outputs, targets) -> scalar."""

    def step(model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return loss(forward(model, inputs), targets)

    return step


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    step: Step,
    config: QatConfig,
    *,
    teacher: nn.Module | None = None,
    report: Report | None = None,
    saving: CheckpointConfig | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a prepared network in place.

    A list of batches is taken in a new order every epoch; other iterables in their own (a DataLoader shuffles itself). All random numbers
    (torch, numpy, Python) are the run's own, seeded anew for every epoch, and as before afterwards.

    Args:
        model: from `prepare`.
        batches: re-iterable; what `step` takes. Tensors are moved to the device of the network.
        step: (model, batch) -> loss.
        config: how to train.
        teacher: the float network; needed where `config.distill` > 0.
        report: called after every epoch with the network in eval mode and `epoch`, `loss` (mean over its steps), `lr`, `seconds`; what it
            adds to these metrics is kept; it returns True to stop the training.
        saving: a run that finds its file goes on where the file ends.

    Returns:
        The network in eval mode and the metrics of every epoch.

    Raises:
        InputError: no batches, no teacher for the distillation, or the checkpoint of another run.
        QatError: the loss is not finite; the first layer that went non-finite is named.
    """
    history = list(epochs(model, batches, step, config, teacher=teacher, report=report, saving=saving))
    return model.eval(), history


def epochs(
    model: nn.Module,
    batches: Iterable[Any],
    step: Step,
    config: QatConfig,
    *,
    teacher: nn.Module | None = None,
    report: Report | None = None,
    saving: CheckpointConfig | None = None,
) -> Iterator[dict[str, float]]:
    """Train as `fit` does, one epoch for every metrics that are asked for; those of epochs that `saving` holds come first.

    Raises:
        InputError, QatError: as `fit`.
    """
    if config.distill and teacher is None:
        raise InputError(f"distill = {config.distill} given without a teacher; give the float network or distill = 0.")
    distillation = Distillation(model, teacher, config.temperature) if teacher is not None and config.distill else None
    try:
        run = Run(model, batches, step, config, distillation)
        generators = run.resume(saving) if saving else None
        yield from run.progress.history
        while run.going:
            yield run.advance(report, saving, generators)
            generators = None
    finally:
        if distillation is not None:
            distillation.close()


class Run:
    """One training run: the network, its optimiser, and how far it is."""

    def __init__(self, model: nn.Module, batches: Iterable[Any], step: Step, config: QatConfig, distillation: Distillation | None) -> None:
        self.model, self.batches, self.step, self.config, self.distillation = model, batches, step, config, distillation
        self.per_epoch = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
        if not self.per_epoch:
            raise InputError("the training split is empty; give at least one batch.")
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
    def going(self) -> bool:
        """True until the epochs are over or the report said stop."""
        return self.progress.epoch < self.config.epochs and not self.progress.stopped

    def advance(
        self, report: Report | None = None, saving: CheckpointConfig | None = None, generators: rng.State | None = None
    ) -> dict[str, float]:
        """Train one epoch, or what `generators`, from `resume`, say is left of it; return its metrics."""
        with rng.private():
            self._epoch(generators, saving)
            self._finish_epoch(report)
            if saving:
                self.save(saving)
        return self.progress.history[-1]

    def _epoch(self, generators: rng.State | None, saving: CheckpointConfig | None) -> None:
        """Take the steps of one epoch that are left; `generators` are those of the moment when the epoch was interrupted."""
        self._start = time.perf_counter()
        if self.progress.epoch == self.freeze_epoch and not self.progress.position:
            self._reestimate()
        self._set_mode()
        rng.seed(self.config.seed, self.progress.epoch)
        batches = self._ordered()
        for _ in itertools.islice(batches, self.progress.position):
            pass  # taken before the interruption
        if generators is not None:
            rng.restore(generators)
        for batch in batches:
            self.progress.loss += self._take(batch)
            self.progress.position += 1
            if saving and saving.every and self.progress.position % saving.every == 0 and self.progress.position < self.per_epoch:
                self.save(saving)

    def _set_mode(self) -> None:
        """Train mode, with batch norm and ranges standing still in the last epochs."""
        self.model.train()
        frozen = self.progress.epoch >= self.freeze_epoch
        for quantizer in input_quantizers(self.model).values():
            quantizer.tracking = not frozen
        for norm in tracked(self.model) if frozen else ():
            norm.eval()

    def _reestimate(self) -> None:
        """Take the statistics of batch norm anew, over batches of their own order."""
        rng.seed(self.config.seed, self.progress.epoch, 1)
        batches = (to_device(batch, self.device) for batch in itertools.islice(self._ordered(), BATCHES))
        reestimate(self.model, self._loss, batches)

    def _ordered(self) -> Iterator[Any]:
        if isinstance(self.batches, Sequence):
            return (self.batches[i] for i in torch.randperm(len(self.batches)).tolist())
        return iter(self.batches)

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
                loss = self.step(self.model, batch)
            except InputError as error:
                self._fail(batch, str(error))
            if self.distillation is not None:
                share = self.config.distill
                loss = (1.0 - share) * loss + share * self.distillation.loss()
        return loss

    def _fail(self, batch: Any, what: str) -> None:
        where = first_non_finite(self.model, lambda: self.step(self.model, batch))
        raise QatError(f"epoch {self.progress.epoch + 1}, batch {self.progress.position + 1}: {what}; {where}. Try a lower lr or clip = 1.")

    def _finish_epoch(self, report: Report | None) -> None:
        progress = self.progress
        if progress.epoch + 1 == self.config.epochs == self.freeze_epoch:
            self._reestimate()
        self.model.eval()
        metrics = {
            "epoch": float(progress.epoch + 1),
            "loss": progress.loss / self.per_epoch,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": time.perf_counter() - self._start,
        }
        progress.stopped = report(self.model, metrics) if report else False
        logger.info("qat: epoch %d of %d, loss %.4f, %.1f s", progress.epoch + 1, self.config.epochs, metrics["loss"], metrics["seconds"])
        progress.history.append(metrics)
        progress.epoch, progress.position, progress.loss = progress.epoch + 1, 0, 0.0

    def save(self, saving: CheckpointConfig) -> None:
        """Write the state to its file."""
        checkpoint.save(saving.path, self.identity, self._state() | {"rng": rng.capture()})

    def resume(self, saving: CheckpointConfig) -> rng.State | None:
        """Take up the state of a file, if there is one; return the generators to go on with inside an epoch."""
        state: Any = checkpoint.load(saving.path, self.identity)
        if state is None:
            return None
        self._set_state(state)
        logger.info("qat: going on at epoch %d, batch %d of %s", self.progress.epoch + 1, self.progress.position + 1, saving.path)
        generators: rng.State = state["rng"]
        return generators if self.progress.position else None

    def take_over(self, other: "Run", lr_factor: float, distill: float) -> None:
        """Go on from the state of another run of the same network, with its learning rate times `lr_factor` and another `distill`."""
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
