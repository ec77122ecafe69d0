"""Knowledge distillation from the float network (Hinton et al. 2015, arXiv:1503.02531), for any training step."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Distillation:
    """Watches a student's forward calls and compares their logits with those of a teacher on the same inputs.

    Args:
        student: the network that trains.
        teacher: the float network; the distillation holds a frozen copy in eval mode.
        temperature: T of the softened distributions.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, temperature: float) -> None:
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self._temperature = temperature
        self._calls: list[tuple[Any, Any, Any]] = []
        self._handle = student.register_forward_hook(self._watch, with_kwargs=True)

    def _watch(self, _module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        self._calls.append((args, kwargs, outputs))

    def loss(self) -> Tensor:
        """Return the mean of `softened` over the calls since the last one."""
        calls, self._calls = self._calls, []
        losses = []
        for args, kwargs, outputs in calls:
            with torch.no_grad():
                aim = _logits(self._teacher(*args, **kwargs))
            losses.append(softened(_logits(outputs), aim, self._temperature))
        return torch.stack(losses).mean()

    def forget(self) -> None:
        """Leave out the calls so far, such as those of an evaluation between two epochs."""
        self._calls.clear()

    def close(self) -> None:
        """Stop watching."""
        self._handle.remove()


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over examples (Hinton et al., section 2).

    Classes run along axis 1 of [N, C] and [N, C, H, W], along the last axis of [N, T, C] (language models).
    """
    axis = 1 if student.dim() == 4 else -1
    log_teacher = (teacher.float() / temperature).log_softmax(axis)
    log_student = (student.float() / temperature).log_softmax(axis)
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(axis).mean()


def _logits(outputs: Any) -> Tensor:
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits
