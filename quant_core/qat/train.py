"""`train`: calibrate, prepare and train one policy."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from quant_core.network.fold import fold_batch_norm
from quant_core.network.statistics import collect
from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.qat.loop import TrainingRun, fit
from quant_core.qat.prepare import prepare
from quant_core.qat.progress import History
from quant_core.spec.policy import Policy
from quant_core.util.errors import InputError


def train(
    model: nn.Module, policy: Policy, run: TrainingRun, *, calib: Iterable[Any], start: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, History]:
    """Calibrate, prepare and train `model` under `policy`; see `quant_core.qat.loop.fit`.

    Args:
        model: float; it is not touched, and it is the teacher where `run.config.distill` > 0. Parameters that require no gradient stay
            as they are, unless none does (a network made for inference): then all are trained.
        policy: for every quantizable layer.
        run: the training split, the step, and how to train.
        calib: model inputs that set the first ranges; at least one batch.
        start: weights to start from in place of the model's, by name: `prepare.float_weights` of a trained policy.

    Returns:
        The prepared, trained network in eval mode (`prepare.finalize` makes it plain), and the metrics of every epoch.

    Raises:
        InputError: the policy, the calibration, the start or the checkpoint does not fit.
        QatError: the loss is not finite; the first layer with a value that is not finite is named.
    """
    return fit(calibrated(model, policy, run.config, calib, start), run, teacher=model)


def calibrated(
    model: nn.Module, policy: Policy, config: QatConfig, calib: Iterable[Any], start: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Return the network in the state in which training begins: prepared, with its first ranges from calibration; arguments as in `train`.

    Raises:
        InputError: the policy, the calibration or the start does not fit.
    """
    inputs = list(calib)
    if not inputs:
        raise InputError("the calibration split is empty; give at least one batch.")
    student = starting(model, config, inputs[0])
    if start is not None:
        _load(student, start)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        student.requires_grad_(True)
    statistics = collect(student, trace(student, inputs[0]), inputs)
    return prepare(student, policy, config.method, statistics=statistics)


def starting(model: nn.Module, config: QatConfig, example: Any) -> nn.Module:
    """Return a copy of `model` before its preparation for training: in eval mode, its batch norms folded where `config` says so."""
    return fold_batch_norm(model, example) if config.batch_norm == "fold" else copy.deepcopy(model).eval()


def _load(model: nn.Module, start: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(dict(start))
    except RuntimeError as error:
        raise InputError(f"the weights to start from are of another network: {error}") from None
