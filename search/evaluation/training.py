"""Quantization-aware training of a task's network, and what it gives: float, post-training and trained accuracy side by side."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from quant_core.qat import QatConfig
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.loop import TrainingRun, epochs
from quant_core.qat.population import PopulationConfig, train
from quant_core.qat.train import calibrated
from quant_core.spec.policy import Policy
from quant_core.util.cache_key import cache_key
from quant_core.util.files import cache_folder
from search.config.evaluation import EvaluateSection
from search.evaluation.measure import measure
from search.evaluation.shuffling import training_batches
from search.tasks.losses import training_step
from search.tasks.stream import split_of
from search.tasks.task import Task

Metrics = dict[str, float]
Report = Callable[[Metrics], bool]
EVALUATION_CODE = ("quant_core", "search.evaluation", "search.tasks.reading", "search.tasks.stream")
"""Code that decides about trained weights and sensitivities."""
MOST_KEPT = 64
"""Training runs, and reconstructions, that the cache folder holds."""


def checkpoint_config(key: str, policies: Sequence[Policy], config: QatConfig) -> CheckpointConfig:
    """Return where the training of policies one after the other, of the network and data that `key` names, is kept.

    The cache folder holds the last `MOST_KEPT` ones.
    """
    name = cache_key("qat", EVALUATION_CODE, key, [policy.to_json() for policy in policies], config)
    return CheckpointConfig(cached_file("qat", name), cached=True)


def cached_file(kind: str, name: str) -> Path:
    """Return the file of a name in the cache folder of a kind, which keeps the last `MOST_KEPT`."""
    folder = cache_folder() / kind
    with contextlib.suppress(FileNotFoundError):  # another process removed one first
        for path in sorted(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)[:-MOST_KEPT]:
            path.unlink()
    return folder / f"{name}.pt"


def training(
    task: Task,
    policy: Policy,
    config: QatConfig,
    *,
    section: EvaluateSection | None = None,
    start: Mapping[str, Tensor] | None = None,
    report: Report | None = None,
    saving: CheckpointConfig | None = None,
) -> tuple[nn.Module, Iterator[Metrics]]:
    """Prepare the network of `task` for training under `policy`; return it with its training, an epoch for every metrics asked for.

    `quant_core.qat.prepare.finalize` makes it plain, `quantized` says what it stores; call `eval()` first.

    Args:
        task: its model is the start and the teacher; its loss is what is minimized.
        policy: for every layer.
        config: how to train.
        section: sizes of the calibration and validation splits.
        start: weights to start from: `quant_core.qat.prepare.float_weights` of a trained policy.
        report: called after every epoch with `epoch`, `loss` (training), `lr`, `seconds`, and `accuracy`, `error`, `loss_valid` on the
            validation split; returns True to stop.
        saving: where to keep the run, so that a killed one goes on.

    Raises:
        InputError: the policy, the start or the checkpoint does not fit.
        QatError: the loss is not finite.
    """
    section = section or EvaluateSection()
    on_valid = _on_valid(task, section, report)
    calib = [inputs for inputs, _ in split_of(task, "calib", section)]
    prepared = calibrated(task.model, policy, config, calib, start)
    run = TrainingRun(training_batches(task, section), training_step(task), config, on_valid, saving)
    return prepared, epochs(prepared, run, task.model)


def trained(
    task: Task,
    policy: Policy,
    config: QatConfig,
    *,
    section: EvaluateSection | None = None,
    start: Mapping[str, Tensor] | None = None,
    report: Report | None = None,
    saving: CheckpointConfig | None = None,
) -> tuple[nn.Module, list[Metrics]]:
    """Train the network of `task` under `policy` and return it prepared, in eval mode, with the metrics of every epoch.

    `quant_core.qat.prepare.finalize` makes it plain.

    Arguments and errors are those of `training`.
    """
    prepared, steps = training(task, policy, config, section=section, start=start, report=report, saving=saving)
    history = list(steps)
    return prepared.eval(), history


def train_population(
    task: Task,
    policy: Policy,
    config: QatConfig,
    breeding: PopulationConfig,
    *,
    section: EvaluateSection,
    start: Mapping[str, Tensor] | None = None,
    saving: CheckpointConfig | None = None,
) -> tuple[nn.Module, list[Metrics]]:
    """Train a population under `policy`, compared by the metrics on the validation split; return the best as `trained` does.

    Raises:
        InputError, QatError: as `trained`.
    """
    calib = [inputs for inputs, _ in split_of(task, "calib", section)]
    run = TrainingRun(training_batches(task, section), training_step(task), config, _on_valid(task, section, None), saving)
    return train(task.model, policy, run, breeding, calib=calib, start=start)


def _on_valid(task: Task, section: EvaluateSection, report: Report | None) -> Callable[[nn.Module, Metrics], bool]:
    """Return what adds the metrics on the validation split to those of an epoch, and passes them on."""
    valid = split_of(task, "valid", section)

    def on_valid(model: nn.Module, metrics: Metrics) -> bool:
        measured = measure(model, valid, task)
        metrics |= {"loss_valid" if name == "loss" else name: value for name, value in measured.items()}
        return bool(report and report(metrics))

    return on_valid
