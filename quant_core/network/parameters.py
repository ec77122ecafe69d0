"""A stored weight of a layer: the parameter `weight` of a module, or any other parameter of one (`lstm.weight_ih_l0`), seen as a module.

A layer's name is that of the module whose parameter `weight` it is, or MODULE.PARAMETER. A stack of matrices (the experts of a mixture, as
one parameter of three axes) is quantized as the matrix [every other axis, contraction axis], so that scales run along a matrix's own rows.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError

OUT_PROJECTION = "out_proj"
"""The layer of torch's attention whose weight is read and which is never called."""
InputPath = tuple[int, ...]
"""Where a weight's input stands among the arguments of its module: (1, 0) is the first part of the second argument."""


@dataclass(frozen=True, eq=False)
class Site:
    """A parameter that is no layer's of its own kind.

    Attributes:
        name: of the layer that it may become.
        key: name of the parameter in `owner`.
        asked: whether the user named it.
    """

    name: str
    key: str
    owner: nn.Module
    parameter: Tensor
    asked: bool = False

    @property
    def by_type(self) -> bool:
        """Whether its work follows from the type of its module, which is torch's own."""
        return self.key in typed_keys(self.owner)


def typed_keys(module: nn.Module) -> tuple[str, ...]:
    """Return the weights of one of torch's own modules whose work follows from its type and its inputs."""
    if isinstance(module, nn.RNNBase):
        return tuple(key for key in module._flat_weights_names if key.startswith("weight"))
    if isinstance(module, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", OUT_PROJECTION)
    return ("weight",) if isinstance(module, nn.Bilinear | nn.EmbeddingBag) else ()


def holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a layer's weight, and the name of the parameter there.

    Raises:
        InputError: the network has no such weight.
    """
    place, _, key = name.rpartition(".")
    try:
        return model.get_submodule(name), "weight"
    except AttributeError:
        pass
    try:
        owner = model.get_submodule(place)
    except AttributeError:
        owner = nn.Module()
    if key not in owner._parameters and key not in getattr(owner, "parametrizations", ()):
        raise InputError(f"layer {name!r}: the network has neither a module nor a parameter of this name; take names from its trace.")
    return owner, key


def layer_name(place: str, key: str) -> str:
    """Return the name of the layer whose weight is the parameter `key` of the module at `place`."""
    return f"{place}.{key}".strip(".") if key != "weight" or not place else place


def state_name(model: nn.Module, name: str) -> str:
    """Return the name of a layer's weight in the state of the network."""
    return f"{name}.weight" if holder(model, name)[1] == "weight" and not _is_root_weight(model, name) else name


def _is_root_weight(model: nn.Module, name: str) -> bool:
    return name == "weight" and holder(model, name)[0] is model


def layer_module(model: nn.Module, layer: Layer) -> nn.Module:
    """Return a module whose parameter `weight` is the layer's: the layer's own, or a `StoredParameter`.

    Raises:
        InputError: the network has no such weight.
    """
    owner, key = holder(model, layer.name)
    return owner if key == "weight" and not layer.stack_shape else StoredParameter(owner, key, layer)


class StoredParameter(nn.Module):
    """One parameter of a module as a layer of its own. It computes nothing; `weight` and hooks on the input are those of the module.

    Args:
        owner: the module; it does not become a submodule.
        key: name of the parameter.
        layer: the layer; its `stack_shape` tells whether `weight` is a matrix in place of the parameter.
    """

    @property
    def owner(self) -> nn.Module:
        """The module that holds the parameter."""
        module: nn.Module = self.__dict__["_owner"]
        return module

    def __init__(self, owner: nn.Module, key: str, layer: Layer) -> None:
        super().__init__()
        self.__dict__["_owner"] = owner  # not as a submodule
        self.key, self.layer = key, layer
        parameter = owner._parameters.get(key)
        if parameter is not None and layer.stack_shape:
            parameter = nn.Parameter(to_matrix(parameter.detach(), layer.contraction_axis), requires_grad=False)
        super().register_parameter("weight", parameter)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Set `weight` here, and the parameter in the module."""
        super().register_parameter(name, param)
        if param is None or name != "weight":
            return
        stack = nn.Parameter(self._unstacked(param.detach()), requires_grad=param.requires_grad) if self.layer.stack_shape else param
        setattr(self.owner, self.key, stack)

    def put(self, weight: Tensor) -> None:
        """Let the module compute with these values, in the shape of `weight`."""
        self.get_parameter("weight").data = weight
        self.owner.get_parameter(self.key).data = self._unstacked(weight) if self.layer.stack_shape else weight

    def _unstacked(self, weight: Tensor) -> Tensor:
        return from_matrix(weight, self.layer.stack_shape, self.layer.contraction_axis)

    def register_forward_pre_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Call `hook` with the weight's input as the one argument, before each call of the module; its result takes the input's place."""
        assert options == {"with_kwargs": True}
        return hook_input(self.owner, self.key, hook)


def hook_input(owner: nn.Module, key: str, hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook` (module, arguments, keyword arguments) before each call of `owner`, with the input of its parameter `key` as the first.

    Raises:
        InputError: no hook reaches that input.
    """
    if key == "weight":
        return owner.register_forward_pre_hook(hook, with_kwargs=True)
    path = input_path(owner, key)
    if path is None:
        raise InputError(f"parameter {key!r} of a {type(owner).__name__}: no hook reaches its input; give its activation as float.")
    return owner.register_forward_pre_hook(_InputHook(hook, path), with_kwargs=True)


class _InputHook:
    """A hook on one of a module's arguments; other arguments that are the very same tensor (self-attention) change with it."""

    def __init__(self, hook: Callable[..., Any], path: InputPath) -> None:
        self.hook, self.path = hook, path

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        source = argument(module, args, kwargs, self.path)
        if source is None:
            return None
        result = self.hook(module, (source,), {})
        if result is None:
            return None
        ((changed,), _) = result

        def replaced(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(replaced, value))
            return changed if value is source else value

        return tuple(map(replaced, args)), {key: replaced(value) for key, value in kwargs.items()}


def argument(module: nn.Module, args: Any, kwargs: Any, path: InputPath) -> Tensor | None:
    """Return the argument of a call at `path`; None where it is absent or no tensor."""
    position, *inner = path
    names = [*inspect.signature(module.forward).parameters]
    value = args[position] if position < len(args) else kwargs.get(names[position])
    for index in inner:
        value = value[index] if isinstance(value, tuple) else None
    return value if isinstance(value, Tensor) else None


def input_path(module: nn.Module, key: str) -> InputPath | None:
    """Return where the input of one of torch's own weights stands among the arguments of its module; None where it is not reachable."""
    if isinstance(module, nn.RNNBase):
        return (0,) if key == "weight_ih_l0" else None  # the reverse direction reads the same input
    if isinstance(module, nn.RNNCellBase):
        return (0,) if key == "weight_ih" else (1, 0) if isinstance(module, nn.LSTMCell) else (1,)
    if isinstance(module, nn.MultiheadAttention):
        return {"in_proj_weight": (0,), "q_proj_weight": (0,), "k_proj_weight": (1,), "v_proj_weight": (2,)}.get(key)
    return None


def weight_of(model: nn.Module, name: str) -> nn.Parameter:
    """Return the parameter that is a layer's weight, in the shape in which its module holds it."""
    owner, key = holder(model, name)
    return owner.get_parameter(key)


def put_weight(module: nn.Module, weight: Tensor) -> None:
    """Let a module of `layer_module` compute with the values of `weight`."""
    if isinstance(module, StoredParameter):
        module.put(weight)
    else:
        module.get_parameter("weight").data = weight


def to_matrix(stack: Tensor, contraction_axis: int) -> Tensor:
    """Return a stack of matrices of any shape as [all other axes, contraction axis]; a view where it can be one."""
    others = [axis for axis in range(stack.dim()) if axis != contraction_axis]
    return stack.permute(*others, contraction_axis).reshape(-1, stack.shape[contraction_axis])


def from_matrix(matrix: Tensor, shape: tuple[int, ...], contraction_axis: int) -> Tensor:
    """Invert `to_matrix`."""
    others = [axis for axis in range(len(shape)) if axis != contraction_axis]
    order = [len(others) if axis == contraction_axis else others.index(axis) for axis in range(len(shape))]
    return matrix.reshape(*(shape[axis] for axis in others), shape[contraction_axis]).permute(order)


def matrix_shape(shape: tuple[int, ...], contraction_axis: int) -> tuple[int, int]:
    """Return the shape of `to_matrix`."""
    return math.prod(shape) // max(shape[contraction_axis], 1), shape[contraction_axis]


def own_modules(model: nn.Module, layers: Iterable[Layer]) -> dict[str, nn.Module]:
    """Return layer -> its module, for layers that are modules which are called, not parameters that others read."""
    modules = {layer.name: layer_module(model, layer) for layer in layers if not layer.weight_only}
    return {name: module for name, module in modules.items() if not isinstance(module, StoredParameter)}
