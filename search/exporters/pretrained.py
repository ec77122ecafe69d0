"""The transformers network that a task wraps: its place, and the same task with another way to compute it."""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from quant_core.network.copies import sharing_copy
from quant_core.network.forward import forward

_CLASS = "transformers.modeling_utils.PreTrainedModel"
Answer = tuple[str, Mapping[str, Tensor]]
"""The class of an output with its module, and its tensors."""


def is_pretrained(module: nn.Module) -> bool:
    """Tell whether a module is a network of transformers; the library is not imported."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == _CLASS for kind in type(module).__mro__)


def inner_name(model: nn.Module) -> str | None:
    """Return the name of the outermost transformers network in a model, "" for the model itself, or None."""
    return next((name for name, module in model.named_modules() if is_pretrained(module)), None)


class Replaced:
    """A copy of a task's network whose transformers network is computed elsewhere; the rest of it is computed here.

    Attributes:
        calls: how often the transformers network was called.
    """

    def __init__(self, model: nn.Module, inner: str, answer: Callable[[dict[str, Any]], Answer]) -> None:
        """Take `answer` (arguments by name, those that are None left out) in place of the `forward` of the module `inner`."""
        self.calls = 0
        self._model = sharing_copy(model)
        module = self._model.get_submodule(inner)
        signature = inspect.signature(module.forward)

        def computed(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            bound = signature.bind(*args, **kwargs)
            rest = bound.arguments.pop("kwargs", {})
            arguments = {name: value for name, value in (bound.arguments | rest).items() if value is not None}
            kind, tensors = answer(arguments)
            place, _, name = kind.rpartition(".")
            return getattr(import_module(place), name)(**tensors)

        object.__setattr__(module, "forward", computed)

    def __call__(self, inputs: Any) -> Tensor:
        """Return the judged output of one batch."""
        return forward(self._model, inputs)
