"""The effect of every choice on the outputs to first order: gradients of the float network times the errors of what ships."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.network.forward import examples_of, forward, with_first_input
from quant_core.network.parameters import layer_module, own_modules, weight_of
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from search.problem.problem import FloatArray
from spaces.space import Dimension, Space

Direction = Callable[[Tensor], Tensor]


def projections(engine: PostTraining, space: Space, parts: Sequence[Any], direction: Direction, draws: int = 1) -> tuple[FloatArray, ...]:
    """Return per dimension [draws * N, K_d], one row per example and draw: v' J e, the move along v by a choice alone.

    v is a random direction of the outputs, J their Jacobian, e the error of the weights that ship, with their corrected biases, or of the
    quantized inputs. Where v has the covariance H of `direction`, half the mean square of a column is the Gauss-Newton form
    0.5 e' J' H J e (Martens, "New insights and perspectives on the natural gradient method", JMLR 2020, section 8), off-diagonal terms
    included: the divergence to second order in e. One backward pass per part and draw gives the gradients of all layers; every weight
    choice adds one call of its layer per part.

    Args:
        engine: its private network is used; it is left in float.
        space: what may be chosen.
        parts: model inputs.
        direction: outputs -> v, drawn anew for every example.
        draws: how many v are drawn per example.
    """
    model = engine.restore()
    rows: dict[str, list[FloatArray]] = {dimension.name: [] for dimension in space.dimensions}
    with torch.inference_mode(False), torch.enable_grad():
        for inputs in parts:
            recorder = _Recorder(engine, space, examples_of(inputs), draws)
            hooks = recorder.hooks(model)
            try:
                outputs = forward(model, inputs)
                for left in reversed(range(draws if outputs.requires_grad else 0)):
                    outputs.backward(direction(outputs.detach()), retain_graph=left > 0)  # type: ignore[no-untyped-call]
            finally:
                for hook in hooks:
                    hook.remove()
            for dimension in space.dimensions:
                rows[dimension.name].append(recorder.rows(dimension))
    return tuple(np.concatenate(rows[dimension.name]) for dimension in space.dimensions)


def projection_passes(engine: PostTraining, space: Space, draws: int = 1) -> float:
    """Return the cost of `projections` in forward passes over its examples: forward, backward, a layer per weight choice."""
    macs = {layer.name: layer.macs for layer in engine.layers}
    total = max(1, sum(macs.values()))
    weights = [dimension for dimension in space.dimensions if dimension.slot == "weight"]
    return 1.0 + draws + sum(macs[name] * (1 + len(dimension.choices)) for dimension in weights for name in dimension.layers) / total


class _Frozen:
    """A handle like that of a hook: `remove` lets a weight go without gradients again."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def remove(self) -> None:
        """Undo `requires_grad_`."""
        self._weight.requires_grad_(False)
        self._weight.grad = None


def _zero(value: Tensor) -> Tensor:
    """Return a zero whose gradient is wanted, so that what it is added to has one."""
    return value.new_zeros(()).requires_grad_(True)


class _Recorder:
    """Watches one forward and backward pass and keeps the inner products of gradients and errors."""

    def __init__(self, engine: PostTraining, space: Space, examples: int, draws: int) -> None:
        self._engine, self._examples, self._draws = engine, examples, draws
        self._terms: dict[str, list[Tensor]] = {dimension.name: [] for dimension in space.dimensions}
        self._slots = {(name, dimension.slot): dimension for dimension in space.dimensions for name in dimension.layers}

    def hooks(self, model: nn.Module) -> list[Any]:
        """Watch all layers that have a choice."""
        handles: list[Any] = []
        called = own_modules(model, self._engine.layers)
        for layer in self._engine.layers:
            module = called.get(layer.name)
            if module is None:
                handles += self._on_stored(model, layer)
            elif (layer.name, "weight") in self._slots or (layer.name, "activation") in self._slots:
                handles.append(module.register_forward_pre_hook(self._before(layer.name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._after(layer.name), with_kwargs=True))
        return handles

    def _on_stored(self, model: nn.Module, layer: Layer) -> list[Any]:
        """Watch a weight that another module reads: by its own gradient, which does not say which rows belong to which example."""
        handles: list[Any] = []
        if (layer.name, "activation") in self._slots and layer.name in self._engine.statistics:
            handles.append(layer_module(model, layer).register_forward_pre_hook(self._before(layer.name), with_kwargs=True))
        dimension = self._slots.get((layer.name, "weight"))
        if dimension is not None and layer.calls:
            weight = weight_of(model, layer.name).requires_grad_(True)
            score = self._gathered(lambda gradients: self._score_stored(model, layer.name, dimension, gradients))
            handles += [weight.register_hook(score), _Frozen(weight)]  # type: ignore[no-untyped-call]
        return handles

    def rows(self, dimension: Dimension) -> FloatArray:
        """Return [draws * examples, K_d]; [draws, K_d] where the layer's input does not say which rows belong to which example."""
        terms = self._terms[dimension.name]
        if not terms:
            return np.zeros((self._draws * self._examples, len(dimension.choices)))
        if len({term.shape[1] for term in terms}) > 1:
            terms = [term.sum(dim=1, keepdim=True) for term in terms]
        return torch.stack(terms).sum(dim=0).flatten(end_dim=1).cpu().numpy()

    def _before(self, name: str) -> Any:
        dimension = self._slots.get((name, "activation"))
        if name not in self._engine.statistics:
            dimension = None

        def anchored(value: Any) -> Any:
            if not (torch.is_grad_enabled() and isinstance(value, Tensor) and value.is_floating_point()):
                return value  # indices of an embedding, or the engine's pass for second moments
            watched = value + _zero(value)  # a tensor of this layer alone, which nothing writes into
            if dimension is not None:
                seen = watched.detach()
                score = self._gathered(lambda gradients: self._score_input(name, dimension, seen, gradients))
                watched.register_hook(score)  # type: ignore[no-untyped-call]
            return watched

        return lambda _module, args, kwargs: with_first_input(args, kwargs, anchored)

    def _after(self, name: str) -> Any:
        dimension = self._slots.get((name, "weight"))

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return output
            watched = output if output.requires_grad else output + _zero(output)
            if dimension is not None:
                args, kwargs = with_first_input(args, kwargs, lambda value: value.detach())
                call = (args, kwargs)
                score = self._gathered(lambda gradients: self._score_weight(name, dimension, module, call, gradients))
                watched.register_hook(score)  # type: ignore[no-untyped-call]
            return watched

        return hook

    def _gathered(self, score: Callable[[Sequence[Tensor]], None]) -> Callable[[Tensor], None]:
        """Return a hook that scores when the gradients of all draws have arrived."""
        gradients: list[Tensor] = []

        def hook(gradient: Tensor) -> None:
            gradients.append(gradient)
            if len(gradients) == self._draws:
                with torch.no_grad():
                    score(gradients)
                gradients.clear()

        return hook

    def _score_input(self, name: str, dimension: Dimension, seen: Tensor, gradients: Sequence[Tensor]) -> None:
        errors = (self._engine.quantized_input(name, spec, seen) - seen for spec in dimension.choices)
        self._keep(dimension, [self._inner(gradients, error) for error in errors])

    def _score_weight(self, name: str, dimension: Dimension, module: nn.Module, call: tuple[Any, Any], gradients: Sequence[Tensor]) -> None:
        args, kwargs = call
        exact, columns = module.forward(*args, **kwargs), []
        for spec in dimension.choices:
            with self._engine.weight_as(name, spec):
                columns.append(self._inner(gradients, module.forward(*args, **kwargs) - exact))
        self._keep(dimension, columns)

    def _score_stored(self, model: nn.Module, name: str, dimension: Dimension, gradients: Sequence[Tensor]) -> None:
        exact, columns = weight_of(model, name).detach(), []
        for spec in dimension.choices:
            with self._engine.weight_as(name, spec):
                error = weight_of(model, name).detach() - exact
            columns.append(torch.stack([(gradient * error).double().sum()[None] for gradient in gradients]))
        self._keep(dimension, columns)

    def _keep(self, dimension: Dimension, columns: Sequence[Tensor]) -> None:
        self._terms[dimension.name].append(torch.stack(list(columns), dim=-1))

    def _inner(self, gradients: Sequence[Tensor], error: Tensor) -> Tensor:
        """Return the inner products, [draws, examples] or [draws, 1]."""
        rows = self._examples if len(error) % self._examples == 0 else 1
        return torch.stack([(gradient * error).reshape(rows, -1).double().sum(dim=1) for gradient in gradients])
