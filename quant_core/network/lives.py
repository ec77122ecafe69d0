"""One example run through a network: the calls of its layers, and from which operation to which every activation is needed."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quant_core.network.forward import first_input, forward
from quant_core.network.recorder import Operation, TensorRecorder, storage_address
from quant_core.util.errors import BitfrontError, first_line


@dataclass
class LayerCall:
    """One call of a layer: where it stands in the sequence of tensor operations, and its shapes."""

    start: int
    source: int
    in_shape: tuple[int, ...]
    end: int = 0
    out_shape: tuple[int, ...] = ()


@dataclass
class _Life:
    """From which operation to which a storage is needed."""

    elements: int
    born: int
    last_use: int


class Lives:
    """The first and last use of every activation, in operations since the start."""

    def __init__(self) -> None:
        self.step = 0
        self._lives: dict[int, _Life] = {}

    def observe(self, operation: Operation) -> None:
        """Take note of the tensors of one operation."""
        for tensor in (*operation.reads, *operation.writes):
            if tensor.is_floating_point():
                elements = tensor.untyped_storage().nbytes() // tensor.element_size() if tensor.layout == torch.strided else tensor.numel()
                life = self._lives.setdefault(storage_address(tensor), _Life(elements, self.step, self.step))
                life.last_use = self.step
        self.step += 1

    def most_alive(self) -> int:
        """Return the elements of activations alive at once, at the largest moment."""
        changes = [0] * (self.step + 1)
        for life in self._lives.values():
            changes[life.born] += life.elements
            changes[life.last_use + 1] -= life.elements
        return max(itertools.accumulate(changes), default=0)

    def alive_beside(self, call: LayerCall) -> int:
        """Return the elements of activations made before `call`, needed after it, and not its own input."""
        return sum(
            life.elements
            for address, life in self._lives.items()
            if life.born < call.start and life.last_use >= call.end and address != call.source
        )


@dataclass
class _Hooks:
    """Collects the calls of every layer through forward hooks."""

    lives: Lives
    calls: dict[str, list[LayerCall]] = field(default_factory=dict)

    def before(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            source: Tensor = first_input(args, kwargs)
            self.calls.setdefault(name, []).append(LayerCall(self.lives.step, storage_address(source), tuple(source.shape)))

        return hook

    def after(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            call = self.calls[name][-1]
            call.end, call.out_shape = self.lives.step, tuple(output.shape)

        return hook


def run_first(model: nn.Module, modules: dict[str, nn.Module], example: Any) -> tuple[dict[str, list[LayerCall]], Lives]:
    """Run one example and return the calls of every layer, and the lives of the activations.

    Raises:
        BitfrontError: the network fails on the example.
    """
    lives = Lives()
    hooks = _Hooks(lives)
    recorder = TensorRecorder([*model.parameters(), *model.buffers()], lives.observe)
    handles = [module.register_forward_pre_hook(hooks.before(name), with_kwargs=True) for name, module in modules.items()]
    handles += [module.register_forward_hook(hooks.after(name)) for name, module in modules.items()]
    try:
        with torch.no_grad(), recorder:
            forward(model, example)
    except BitfrontError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
        raise BitfrontError(
            f"the network failed on one example of shape {shapes} with {first_line(error)}. "
            f"Inputs have the examples along their first axis; a tuple is passed as model(*x), a dict as model(**x)."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return hooks.calls, lives
