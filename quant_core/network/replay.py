"""Running a network again from a point on: the layers before it return their outputs of the first run instead of computing them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from quant_core.network.forward import forward


class ActivationReplay:
    """One forward pass of `model` on one batch, with the output of each named module that was called exactly once.

    Attributes:
        outputs: of the network.

    Args:
        model: the network.
        modules: name -> module, the layers whose outputs are kept.
        inputs: one batch.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module], inputs: Any) -> None:
        self._modules = modules
        self._order: list[str] = []
        self._kept: dict[str, Tensor] = {}
        hooks = [module.register_forward_hook(self._keep(name)) for name, module in modules.items()]
        try:
            self.outputs = forward(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def before(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the modules whose one call ended before the first call of any of `names`; none when one of those was never called."""
        if not all(name in self._order for name in names):
            return ()
        first = min(self._order.index(name) for name in names)
        return tuple(name for name in self._order[:first] if self._order.count(name) == 1)

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
            self._kept[name] = output.clone()

        return hook


def _returning(output: Tensor) -> Any:
    def replay(*_args: Any, **_options: Any) -> Tensor:
        return output.clone()

    return replay
