"""The batch norms of a network: those that keep statistics, and inputs made of them where there are no data to calibrate with."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quant_core.network.forward import call
from quant_core.util.devices import CPU, device_of
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.rng import generator

STEPS, BATCH, RATE = 100, 16, 0.1
SCALES = tuple(10.0**power for power in range(-4, 5))


def tracked(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def synthetic_inputs(model: nn.Module, shape: Sequence[int], count: int, *, steps: int = STEPS, seed: int = 0) -> list[Tensor]:
    """Return inputs that give every batch norm inputs of the mean and deviation that it saw in training.

    Cai et al., ZeroQ, CVPR 2020 (arXiv 2001.00281), equation 3: from normal noise, Adam lowers the distance between the statistics of a
    batch and the running ones. Here both are in units of the running deviation, so that layers of large values do not outweigh the others,
    and the learning rate falls to 0 by a cosine. Nothing but the inputs changes; nothing is random but the first noise.

    Args:
        model: in eval mode, with batch norms that keep running statistics; called on one float tensor.
        shape: of one input, without the batch.
        count: how many inputs.
        steps: of Adam per batch; each is a forward and a backward pass. Before the first, nine forward passes find the scale. 0: the noise.
        seed: of the noise.

    Returns:
        Batches of up to 16 inputs [N, *shape], on the CPU; the last may be smaller, but has more than one input where `count` has.

    Raises:
        InputError: no batch norm keeps statistics, or none is reached.
        BitfrontError: the distance is NaN or infinite.

    >>> import bitfront
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()
    >>> parts = bitfront.synthetic_inputs(model, (3, 8, 8), 32)
    >>> [tuple(part.shape) for part in parts]
    [(16, 3, 8, 8), (16, 3, 8, 8)]
    >>> quantized = bitfront.quantize(model, "weight=int8:channel,activation=int8:tensor", parts)
    """
    if not tracked(model):
        raise InputError(
            f"{type(model).__name__} has no batch norm that keeps running statistics, so nothing tells what its inputs look like; "
            "give calibration data."
        )
    noise = torch.empty(count, *shape, device=CPU).normal_(generator=generator(seed))
    parts = noise.to(device_of(model) or CPU).tensor_split(max(1, -(-count // BATCH)))
    scale = _scale(model, parts[0]) if steps else 1.0
    return [_matched(model, part, scale, steps).to(CPU) for part in parts]


def _scale(model: nn.Module, noise: Tensor) -> float:
    """Return the power of ten by which the noise comes nearest to the statistics, 1 where none is finite."""
    far = {}
    for scale in SCALES:
        with torch.no_grad():
            far[scale] = float(_far(model, scale * noise).nan_to_num(torch.inf))
    return min(SCALES, key=lambda scale: (far[scale], abs(math.log(scale))))


def _matched(model: nn.Module, noise: Tensor, scale: float, steps: int) -> Tensor:
    """Return exp(s) (noise + b), with s and b per channel, after all three have been learned: inputs may be of any scale."""
    logs, shifts = (torch.full((noise.shape[1], *[1] * (noise.dim() - 2)), value, device=noise.device) for value in (math.log(scale), 0.0))
    noise = noise.clone()
    learned = [tensor.requires_grad_(True) for tensor in (noise, logs, shifts)]
    optimizer = torch.optim.Adam(learned, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps):
        with torch.enable_grad():
            far = _far(model, logs.exp() * (noise + shifts))
            gradients = torch.autograd.grad(far, learned)
        if not bool(torch.isfinite(far)):
            raise BitfrontError(f"statistics of batch norms lie {float(far.detach())} from the running ones; give calibration data.")
        for tensor, gradient in zip(learned, gradients, strict=True):
            tensor.grad = gradient
        optimizer.step()
        schedule.step()
    return (logs.exp() * (noise + shifts)).detach()


def _far(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the sum of the distances of all batch norms that one forward pass reaches."""
    seen: list[Tensor] = []
    handles = [norm.register_forward_pre_hook(lambda norm, x: seen.append(_distance(norm, x[0]))) for norm in tracked(model)]
    try:
        call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise InputError(f"no batch norm of {type(model).__name__} is reached; give calibration data.")
    return torch.stack(seen).sum()


def _distance(norm: Any, inputs: Tensor) -> Tensor:
    """Return how far the mean and the deviation of a batch norm's inputs [N, C, ...] lie from its own, a scalar.

    The mean over channels of ((m - running m) / s)^2 + (std / s - 1)^2, with s the running deviation.
    """
    axes = [axis for axis in range(inputs.dim()) if axis != 1]
    deviation = (norm.running_var + norm.eps).sqrt()
    means, stds = inputs.mean(axes), (inputs.var(axes, correction=0) + norm.eps).sqrt()
    far: Tensor = ((means - norm.running_mean) / deviation).square() + (stds / deviation - 1).square()
    return far.mean()
