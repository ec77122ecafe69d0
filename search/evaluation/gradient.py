"""The effect of every choice on the outputs to first order: gradients of the float network times the errors of what ships."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.network.forward import forward, with_first_input
from quant_core.ptq.engine import PostTraining
from search.evaluation.divergence import examples_of
from search.problem.problem import FloatArray
from spaces.space import Dimension, Space

Direction = Callable[[Tensor], Tensor]


def projections(engine: PostTraining, space: Space, parts: Sequence[Any], direction: Direction) -> tuple[FloatArray, ...]:
    """Return per dimension [N, K_d], one row per example: v' J e, how far a choice alone moves the outputs along a random direction v.

    J is the Jacobian of the outputs, e the error of the weights that ship, with their corrected biases, or of the quantized inputs. Where
    v has the covariance H of `direction`, half the mean square of a column is the Gauss-Newton form 0.5 e' J' H J e (Martens,
    "New insights and perspectives on the natural gradient method", JMLR 2020, section 8), off-diagonal terms included: the divergence to
    second order in e. One backward pass per part gives the gradients of all layers; every weight choice adds one call of its layer.

    Args:
        engine: its private network is used; it is left in float.
        space: what may be chosen.
        parts: model inputs.
        direction: outputs -> v, drawn anew for every example.
    """
    model = engine.restore()
    rows: dict[str, list[FloatArray]] = {dimension.name: [] for dimension in space.dimensions}
    with torch.inference_mode(False), torch.enable_grad():
        for inputs in parts:
            recorder = _Recorder(engine, space, examples_of(inputs))
            hooks = recorder.hooks(model)
            try:
                outputs = forward(model, inputs)
                if outputs.requires_grad:
                    outputs.backward(direction(outputs.detach()))  # type: ignore[no-untyped-call]
            finally:
                for hook in hooks:
                    hook.remove()
            for dimension in space.dimensions:
                rows[dimension.name].append(recorder.rows(dimension))
    return tuple(np.concatenate(rows[dimension.name]) for dimension in space.dimensions)


def projection_passes(engine: PostTraining, space: Space) -> float:
    """Return what `projections` costs in forward passes over its examples: forward, backward, a call of a layer per weight choice."""
    macs = {layer.name: layer.macs for layer in engine.layers}
    total = max(1, sum(macs.values()))
    weights = [dimension for dimension in space.dimensions if dimension.slot == "weight"]
    return 2.0 + sum(macs[name] * (1 + len(dimension.choices)) for dimension in weights for name in dimension.layers) / total


class _Recorder:
    """Watches one forward and backward pass and keeps the inner products of gradients and errors."""

    def __init__(self, engine: PostTraining, space: Space, examples: int) -> None:
        self._engine, self._examples = engine, examples
        self._terms: dict[str, list[Tensor]] = {dimension.name: [] for dimension in space.dimensions}
        self._slots = {(name, dimension.slot): dimension for dimension in space.dimensions for name in dimension.layers}
        self._zero = torch.zeros((), requires_grad=True)

    def hooks(self, model: nn.Module) -> list[Any]:
        """Watch all layers that have a choice."""
        handles: list[Any] = []
        for name in dict.fromkeys(layer for layer, _ in self._slots):
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(self._before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._after(name), with_kwargs=True))
        return handles

    def rows(self, dimension: Dimension) -> FloatArray:
        """Return [examples, K_d]; [1, K_d] where the layer's input does not say which rows belong to which example."""
        terms = self._terms[dimension.name]
        if not terms:
            return np.zeros((self._examples, len(dimension.choices)))
        if any(len(term) != self._examples for term in terms):
            terms = [term.sum(dim=0, keepdim=True) for term in terms]
        return torch.stack(terms).sum(dim=0).numpy()

    def _before(self, name: str) -> Any:
        dimension = self._slots.get((name, "activation"))
        if name not in self._engine.statistics:
            dimension = None

        def anchored(value: Any) -> Any:
            if not (torch.is_grad_enabled() and isinstance(value, Tensor) and value.is_floating_point()):
                return value  # indices of an embedding, or the engine's pass for second moments
            watched = value + self._zero  # a tensor of this layer alone, which nothing writes into
            if dimension is not None:
                seen = watched.detach()
                watched.register_hook(lambda gradient: self._score_input(name, dimension, seen, gradient))
            return watched

        return lambda _module, args, kwargs: with_first_input(args, kwargs, anchored)

    def _after(self, name: str) -> Any:
        dimension = self._slots.get((name, "weight"))

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            watched = output if output.requires_grad else output + self._zero
            if dimension is not None:
                args, kwargs = with_first_input(args, kwargs, lambda value: value.detach())
                watched.register_hook(lambda gradient: self._score_weight(name, dimension, module, (args, kwargs), gradient))
            return watched

        return hook

    def _score_input(self, name: str, dimension: Dimension, seen: Tensor, gradient: Tensor) -> None:
        with torch.no_grad():
            columns = [self._inner(gradient, self._engine.quantized_input(name, spec, seen) - seen) for spec in dimension.choices]
            self._terms[dimension.name].append(torch.stack(columns, dim=1))

    def _score_weight(self, name: str, dimension: Dimension, module: nn.Module, call: tuple[Any, Any], gradient: Tensor) -> None:
        args, kwargs = call
        columns = []
        with torch.no_grad():
            exact = module.forward(*args, **kwargs)
            for spec in dimension.choices:
                with self._engine.weight_as(name, spec):
                    columns.append(self._inner(gradient, module.forward(*args, **kwargs) - exact))
            self._terms[dimension.name].append(torch.stack(columns, dim=1))

    def _inner(self, gradient: Tensor, error: Tensor) -> Tensor:
        """Return the inner products, [examples] or [1]."""
        rows = self._examples if len(gradient) % self._examples == 0 else 1
        return (gradient * error).reshape(rows, -1).double().sum(dim=1)
