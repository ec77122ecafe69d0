"""Optimisers and schedules by name; `package.module:attribute` of any other, such as `torch.optim:AdamW`."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from quant_core.qat import QatConfig
from quant_core.qat.method import InputQuantizer, WeightQuantizer
from quant_core.util.registry import resolve

OPTIMIZERS: Mapping[str, str] = {
    "sgd": "quant_core.qat.optimizers:sgd",
    "adamw": "torch.optim:AdamW",
}
SCHEDULES: Mapping[str, str] = {
    "cosine": "quant_core.qat.optimizers:cosine",
    "constant": "quant_core.qat.optimizers:constant",
}
Groups = list[dict[str, Any]]


def groups(model: nn.Module, config: QatConfig) -> Groups:
    """Return the parameter groups of a prepared network: weights with decay, other parameters without, and those of the method."""
    quantizers = [module for module in model.modules() if isinstance(module, WeightQuantizer | InputQuantizer)]
    learned = {id(p): p for module in quantizers for p in module.parameters(recurse=False)}
    decaying = {id(p) for module in quantizers if module.decays for p in module.parameters(recurse=False)}
    plain = [p for p in model.parameters() if p.requires_grad and id(p) not in learned]
    parts = (
        ([p for p in plain if p.dim() > 1], config.lr, config.weight_decay),
        ([p for p in plain if p.dim() <= 1], config.lr, 0.0),
        ([p for p in learned.values() if id(p) not in decaying], config.lr * config.step_lr, 0.0),
        ([p for p in learned.values() if id(p) in decaying], config.lr * config.step_lr, config.weight_decay),
    )
    return [{"params": params, "lr": lr, "weight_decay": decay} for params, lr, decay in parts if params]


def make_optimizer(model: nn.Module, config: QatConfig) -> Optimizer:
    """Return the optimiser of `config` over the groups of `model`."""
    factory = cast(Callable[[Groups], Optimizer], resolve(OPTIMIZERS, "optimizer", config.optimizer))
    return factory(groups(model, config))


def make_schedule(optimizer: Optimizer, steps: int, config: QatConfig) -> LRScheduler:
    """Return the schedule of `config` over `steps` steps of the optimiser."""
    factory = cast(Callable[[Optimizer, int], LRScheduler], resolve(SCHEDULES, "schedule", config.schedule))
    return factory(optimizer, steps)


def sgd(parameters: Groups) -> Optimizer:
    """Return SGD with Nesterov momentum 0.9."""
    return torch.optim.SGD(parameters, momentum=0.9, nesterov=True)


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a cosine from the peak to 0 over `steps` (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5 without restarts)."""
    return CosineAnnealingLR(optimizer, T_max=steps)


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:  # noqa: ARG001
    """Return a schedule that leaves the learning rate as it is."""
    return LambdaLR(optimizer, _one)


def _one(_step: int) -> float:
    return 1.0
