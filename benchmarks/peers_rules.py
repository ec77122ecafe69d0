"""What published rules say that a choice of bits costs: each in a few lines, on the same formats, roundings and examples.

A rule gives per dimension [K_d] the loss of every choice of a weight; the same integer program takes the policy of the least sum. Published
rules are given the errors of rounding to nearest, as their authors take them (`nearest`); `bitfront` those of what ships.

- `delta_loss`: sum of |gradient x error|, of auto-round's AutoScheme (the gradients are of labels that the float network draws).
- `weighted_error`: squared errors weighed by the mean squared input of their channel, of llama.cpp's pull request 15550.
- `linearity`: HIGGS (arXiv 2411.17525, theorem 1): the divergence that a little noise in one layer causes, per relative squared error,
  times the relative squared error of the choice.
- `trace`: HAWQ-V2 (arXiv 1911.03852): mean trace of the layer's Hessian, here Gauss-Newton's by Hutchinson's estimate, times the squared
  error.
- `fisher`: half the diagonal of the Fisher information times the squared errors, as ModelOpt's gradient score.
- `bitfront`: `sensitivity = "gradient"`, Gauss-Newton's form with its off-diagonal terms, and the correction for what was fitted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.network.forward import forward
from quant_core.network.parameters import own_modules, weight_of
from quant_core.ptq.engine import PostTraining
from quant_core.util import rng
from search.evaluation.divergence import PART, Reference
from search.evaluation.fisher import backward
from search.evaluation.sensitivity import Method, Sensitivity
from search.problem.problem import FloatArray
from spaces.space import Dimension, Space

Losses = tuple[FloatArray, ...]
NOISE = 0.02
"""Relative squared error of the noise that HIGGS's slope is taken at: about that of 4 bits."""


def reference_of(engine: PostTraining, batches: Sequence[Any], class_axis: int | None) -> Reference:
    """Return the calibration examples in parts, and what the float network gives."""
    parts, model = Reference(batches, [], class_axis).parts(PART), engine.restore()
    with torch.inference_mode():
        outputs = [forward(model, inputs) for inputs in parts]
    return Reference(parts, outputs, class_axis)


def nearest(space: Space) -> Space:
    """Return the space with every weight rounded to nearest."""
    return replace(space, dimensions=tuple(_to_nearest(dimension) for dimension in space.dimensions))


def _to_nearest(dimension: Dimension) -> Dimension:
    if dimension.slot != "weight":
        return dimension
    return replace(dimension, choices=tuple(replace(spec, rounding="nearest") for spec in dimension.choices))


def errors(engine: PostTraining, space: Space) -> Iterator[tuple[int, int, str, Tensor]]:
    """Yield dimension, choice, layer and the error of its weight; the engine stands in float."""
    model = engine.restore()
    for d, dimension in enumerate(space.dimensions):
        for name in dimension.layers:
            exact = weight_of(model, name).detach().clone()
            for k, spec in enumerate(dimension.choices):
                with engine.weight_as(name, spec):
                    error = weight_of(model, name).detach() - exact
                yield d, k, name, error


def gradients(engine: PostTraining, space: Space, parts: Sequence[Any], scalar: Callable[[Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield per part the gradient of a scalar of the float network's outputs, layer name -> that of its weight."""
    model = engine.restore()
    weights = {name: weight_of(model, name) for dimension in space.dimensions for name in dimension.layers}
    for inputs in parts:
        backward(model, weights, inputs, scalar)
        yield {name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()}
        for weight in weights.values():
            weight.grad = None


def delta_loss(engine: PostTraining, space: Space, reference: Reference) -> Losses:
    """Return the losses of AutoScheme's rule."""
    generator = rng.generator(0)
    losses = _zeros(space)
    for slope in gradients(engine, space, reference.batches, lambda outputs: reference.compare.sampled_nll(outputs, generator)):
        for d, k, name, error in errors(engine, space):
            losses[d][k] += float((slope[name] * error).abs().double().sum())
    return losses


def trace(engine: PostTraining, space: Space, reference: Reference) -> Losses:
    """Return the losses of HAWQ-V2's rule."""
    generator = rng.generator(0)
    traces: dict[str, float] = {}
    project = lambda outputs: (outputs * reference.compare.direction(outputs.detach(), generator)).sum()  # noqa: E731
    for slope in gradients(engine, space, reference.batches, project):
        for name, gradient in slope.items():
            traces[name] = traces.get(name, 0.0) + float(gradient.double().square().sum())
    losses = _zeros(space)
    for d, k, name, error in errors(engine, space):
        losses[d][k] += traces[name] / error.numel() * float(error.double().square().sum())
    return losses


def weighted_error(engine: PostTraining, space: Space, reference: Reference) -> Losses:
    """Return the losses of llama.cpp's rule; a layer that is no convolution or linear map has all inputs alike."""
    model = engine.restore()
    modules, squares = own_modules(model, engine.layers), dict[str, Tensor]()
    hooks = [module.register_forward_pre_hook(_watch(name, squares)) for name, module in modules.items() if _is_plain(module)]
    with torch.no_grad():
        for inputs in reference.batches:
            forward(model, inputs)
        for hook in hooks:
            hook.remove()
        losses = _zeros(space)
        for d, k, name, error in errors(engine, space):
            module = modules.get(name)
            if module is None or name not in squares:
                losses[d][k] += float(error.double().square().sum())
                continue
            bias = {} if module.bias is None else {"bias": torch.zeros(len(error))}
            changed = {"weight": error.square(), **bias}
            losses[d][k] += float(torch.func.functional_call(module, changed, (squares[name],)).double().sum())
    return losses


def linearity(engine: PostTraining, space: Space, reference: Reference) -> Losses:
    """Return the losses of HIGGS's rule, its slopes from one part of the examples."""
    generator = rng.generator(0)
    model = engine.restore()
    slopes, norms = dict[str, float](), dict[str, float]()
    with torch.no_grad():
        for name in (name for dimension in space.dimensions for name in dimension.layers):
            weight = weight_of(model, name)
            exact, norms[name] = weight.detach().clone(), float(weight.double().square().mean())
            noise = torch.randn(exact.shape, generator=generator).to(exact)
            weight.copy_(exact + noise * (NOISE * norms[name]) ** 0.5)
            divergence, _ = reference.compare(forward(model, reference.batches[0]), reference.outputs[0])
            weight.copy_(exact)
            slopes[name] = divergence / NOISE
    losses = _zeros(space)
    for d, k, name, error in errors(engine, space):
        losses[d][k] += slopes[name] * float(error.double().square().mean()) / max(norms[name], 1e-30)
    return losses


def fisher(engine: PostTraining, space: Space, reference: Reference) -> Losses:
    """Return ModelOpt's gradient score."""
    return _sensitivity(engine, space, reference, "fisher")


def bitfront(engine: PostTraining, space: Space, reference: Reference) -> Losses:
    """Return the sensitivities that bitfront plans with."""
    return _sensitivity(engine, space, reference, "gradient")


def _sensitivity(engine: PostTraining, space: Space, reference: Reference, method: Method) -> Losses:
    key = f"peers-{time.time_ns()}"  # never from disk: its time counts
    return Sensitivity(engine, space, reference.batches, key, method, reference.class_axis)()


RULES: dict[str, Callable[[PostTraining, Space, Reference], Losses]] = {
    "bitfront": bitfront,
    "fisher": fisher,
    "delta_loss": delta_loss,
    "weighted_error": weighted_error,
    "linearity": linearity,
    "trace": trace,
}


def _zeros(space: Space) -> Losses:
    return tuple(np.zeros(len(dimension.choices)) for dimension in space.dimensions)


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _watch(name: str, squares: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that sums the squared inputs of a layer over examples, of a linear map over positions too: [1, ...]."""

    def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        squared = args[0].detach().square()
        if isinstance(module, nn.Linear):
            squared = squared.reshape(-1, squared.shape[-1])
        total = squared.sum(dim=0, keepdim=True)
        squares[name] = squares[name] + total if name in squares else total

    return watch
