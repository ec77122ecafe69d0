"""Running a network again from a point on: the layers before it return their outputs of the first run instead of computing them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from quant_core.network.forward import forward
from quant_core.util.pages import lasting


class ActivationReplay:
    """One forward pass of `model` on one batch, with the outputs of named modules that were called exactly once.

    Outputs are kept in the order of the calls within a budget; a module whose output exceeds what is left of it is computed again.

    Attributes:
        outputs: of the network.

    Args:
        model: the network.
        modules: name -> module, the layers whose outputs are kept.
        inputs: one batch.
        budget: bytes of the outputs that are kept.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any, budget: int = 2**62) -> None:
        self._modules, self._left = modules, budget
        self._order: list[str] = []
        self._kept: dict[str, Tensor] = {}
        hooks = [module.register_forward_hook(self._keep(name)) for name, module in modules.items()]
        try:
            self.outputs = forward(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def before(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the modules that can be replayed: their one call ended before the first call of any of `names`.

        None when one of those was never called.
        """
        if not all(name in self._order for name in names):
            return ()
        first = min(self._order.index(name) for name in names)
        return tuple(name for name in self._order[:first] if name in self._kept and self._order.count(name) == 1)

    @contextmanager
    def replayed(self, names: Sequence[str]) -> Iterator[None]:
        """Let modules return their kept outputs within the block; copies, as what follows may write into them."""
        try:
            for name in names:
                self._modules[name].forward = _returning(self._kept[name])
            yield
        finally:
            for name in names:
                self._modules[name].__dict__.pop("forward", None)

    def _keep(self, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._order.append(name)
            if name in self._kept:  # a second call: it cannot be replayed
                self._left += self._kept.pop(name).nbytes
            elif self._order.count(name) == 1 and output.nbytes <= self._left:
                with lasting():
                    self._kept[name] = output.clone()
                self._left -= output.nbytes

        return hook


def _returning(output: Tensor) -> Any:
    def replay(*_args: Any, **_options: Any) -> Tensor:
        return output.clone()

    return replay
