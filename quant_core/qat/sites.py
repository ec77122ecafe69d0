"""Training with quantized weights that other modules read: of recurrent modules, attention, own modules, stacks of experts."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from quant_core.network.forward import with_first_input
from quant_core.network.parameters import StoredParameter, from_matrix, hook_input, layer_module, to_matrix
from quant_core.qat.method import InputQuantizer, Stored, WeightQuantizer
from quant_core.spec.layer import Layer


def is_site(model: nn.Module, layer: Layer) -> bool:
    """Tell whether a layer's weight is read by another module than its own call."""
    return bool(layer.calls) and (layer.weight_only or isinstance(layer_module(model, layer), StoredParameter))


class StackWeight(WeightQuantizer):
    """A stack of matrices, quantized as one matrix by `inner`.

    Args:
        inner: the quantizer of the matrix [all other axes, contraction axis].
        layer: the layer, with the shape of the stack and its contraction axis.
    """

    def __init__(self, inner: WeightQuantizer, layer: Layer) -> None:
        super().__init__(inner.spec, inner.channel_axis)
        self.inner, self.shape, self.axis = inner, layer.stack_shape, layer.contraction_axis

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized stack."""
        quantized: Tensor = self.inner(to_matrix(weight, self.axis))
        return from_matrix(quantized, self.shape, self.axis)

    def stored(self, weight: Tensor) -> Stored:
        """Return the values of the matrix that `inner` stores."""
        return self.inner.stored(to_matrix(weight, self.axis))

    def constrain(self, weight: Tensor) -> None:
        """Bring the master weight into the domain of `inner`, in place."""
        matrix = to_matrix(weight, self.axis).clone()
        self.inner.constrain(matrix)
        weight.copy_(from_matrix(matrix, self.shape, self.axis))


def coded(quantizer: WeightQuantizer, weight: Tensor) -> Tensor:
    """Return a weight in the shape in which it is quantized."""
    return to_matrix(weight, quantizer.axis) if isinstance(quantizer, StackWeight) else weight


def in_module(quantizer: WeightQuantizer, weight: Tensor) -> Tensor:
    """Invert `coded`."""
    return from_matrix(weight, quantizer.shape, quantizer.axis).contiguous() if isinstance(quantizer, StackWeight) else weight


def parametrize_site(owner: nn.Module, key: str, quantizer: WeightQuantizer) -> None:
    """Let a module compute with the quantized values of one of its parameters."""
    parametrize.register_parametrization(owner, key, quantizer)
    if isinstance(owner, nn.RNNBase) and _detach_flat_weights not in owner._forward_hooks.values():
        owner.register_forward_hook(_detach_flat_weights)


def _detach_flat_weights(module: Any, _args: Any, _output: Any) -> None:
    """Drop the graph of the last call from the list in which recurrent modules keep their weights: a copy of the network cannot hold it."""
    module._flat_weights = [weight.detach() if isinstance(weight, Tensor) else weight for weight in module._flat_weights]


def attach_site(owner: nn.Module, key: str, name: str, quantizer: InputQuantizer) -> None:
    """Let `quantizer`, from now on the submodule `name`, quantize the input of the parameter `key`."""
    owner.register_module(name, quantizer)
    hook_input(owner, key, _SiteInput(name))


class _SiteInput:
    """A hook that finds its quantizer by name, so that a copied module has the copied one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        quantizer: Any = module._modules[self.name]
        return with_first_input(args, kwargs, quantizer)
