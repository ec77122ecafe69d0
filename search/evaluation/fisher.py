"""The gradient score of every choice from one backward pass: half the Fisher information times the squared quantization error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.network.forward import forward, with_first_input
from quant_core.network.parameters import layer_module, weight_of
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy
from search.problem.problem import FloatArray
from spaces.space import Dimension, Space

PASSES = 3
"""What a forward and a backward pass cost, in forward passes."""
SampledNll = Callable[[Tensor], Tensor]


def fisher_scores(engine: PostTraining, space: Space, batches: Sequence[Any], sampled_nll: SampledNll) -> tuple[FloatArray, ...]:
    """Return per dimension [K_d] the summed second-order rise of the divergence when a choice replaces the float tensor.

    KL(p || p + dp) is 0.5 dx' F dx to second order, F the Fisher information of x; kept is its diagonal (as in HAWQ-V2's trace and
    ModelOpt's gradient score). The labels of `sampled_nll` are drawn from the network's own outputs, so that examples are independent with
    mean zero and the squared sum of a batch's gradients is the sum of their squares on average.

    Args:
        engine: its private network is used; it is left in float.
        space: what may be chosen.
        batches: model inputs.
        sampled_nll: outputs -> the summed negative log-likelihood of labels drawn from them.
    """
    model = engine.restore()
    inputs_of = {name: dimension for dimension in space.dimensions if dimension.slot == "activation" for name in dimension.layers}
    names = [name for dimension in space.dimensions for name in dimension.layers]
    weights = {name: weight_of(model, name) for name in names}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    scores = {dimension.name: np.zeros(len(dimension.choices)) for dimension in space.dimensions}
    hooks = [
        layer_module(model, layer).register_forward_pre_hook(_watch(engine, layer.name, inputs_of[layer.name], scores), with_kwargs=True)
        for layer in engine.layers
        if layer.name in inputs_of and layer.name in engine.statistics
    ]
    try:
        for inputs in batches:
            backward(model, weights, inputs, sampled_nll)
            for name, weight in weights.items():
                if weight.grad is not None:
                    squares[name] += weight.grad.square()
                    weight.grad = None
    finally:
        for hook in hooks:
            hook.remove()
    _add_weights(engine, space, squares, scores)
    return tuple(scores[dimension.name] for dimension in space.dimensions)


def backward(model: nn.Module, weights: Mapping[str, Tensor], inputs: Any, scalar: SampledNll) -> None:
    """Add the gradients of a scalar of the model's outputs to those of `weights`, which need none before and after."""
    with torch.inference_mode(False), torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        try:
            scalar(forward(model, inputs)).backward()  # type: ignore[no-untyped-call]
        finally:
            for weight in weights.values():
                weight.requires_grad_(False)


def _watch(engine: PostTraining, name: str, dimension: Dimension, scores: dict[str, FloatArray]) -> Any:
    """Return a hook that scores every choice for a layer's input when its gradient arrives."""

    def scored(given: Tensor) -> Tensor:
        if not given.is_floating_point():  # indices of an embedding
            return given
        seen = given.view_as(given) if given.requires_grad else given.detach().clone().requires_grad_()

        def arrived(gradient: Tensor) -> None:
            with torch.no_grad():
                for k, spec in enumerate(dimension.choices):
                    error = engine.quantized_input(name, spec, seen.detach()) - seen.detach()
                    scores[dimension.name][k] += 0.5 * float((gradient * error).double().square().sum())

        seen.register_hook(arrived)  # type: ignore[no-untyped-call]
        return seen

    def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        return with_first_input(args, kwargs, scored)

    return hook


def _add_weights(engine: PostTraining, space: Space, squares: dict[str, Tensor], scores: dict[str, FloatArray]) -> None:
    """Score every choice of the weights, all layers at once."""
    model = engine.restore()
    floats = {name: weight_of(model, name).detach().clone() for name in squares}
    for k in range(max((len(dimension.choices) for dimension in space.dimensions), default=0)):
        policy: Policy = space.policy([min(k, len(dimension.choices) - 1) for dimension in space.dimensions])
        engine.apply(policy)
        for dimension in space.dimensions:
            if dimension.slot == "weight" and k < len(dimension.choices):
                for name in dimension.layers:
                    error = weight_of(model, name).detach() - floats[name]
                    scores[dimension.name][k] += 0.5 * float((squares[name] * error.square()).double().sum())
    engine.restore()
