"""`Quantized`: a quantized network with the codes, scales, bias and activation grid of every layer, exactly those of the simulation."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs import Encoded
from quant_core.codecs.qparams import QParams
from quant_core.codecs.quantize import decode
from quant_core.network.copies import sharing_copy
from quant_core.network.fold import fold_batch_norm
from quant_core.network.forward import to_device
from quant_core.network.parameters import layer_module
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, QuantSpec
from quant_core.util.devices import CPU, device_of
from quant_core.util.errors import BitfrontError


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """One layer of a quantized network.

    Attributes:
        layer, policy: the layer, and how it is quantized; a layer that the network never calls is float, whatever its policy says.
        weight: float32, as the simulation uses it.
        encoded: its codes and scales; None where the weight is float.
        bias: float32 with the corrections of the simulation, or None.
        grid: of its input, where the activation is quantized with a range from calibration; else None.
    """

    layer: Layer
    policy: LayerPolicy
    weight: Tensor
    encoded: Encoded | None
    bias: Tensor | None
    grid: QParams | None

    @property
    def overflows(self) -> bool:
        """Tell whether two products of codes may sum to more than 16 bits hold: int8 kernels of processors without VNNI add them so.

        Inputs are unsigned there: codes of s8 are moved by 128.
        """
        if self.grid is None or self.encoded is None or self.policy.weight.format != "int":
            return False
        bits, affine = self.policy.weight.bits, self.encoded.zero_point is not None
        largest = 2**bits - 1 if affine else int((self.encoded.codes.int() - 2 ** (bits - 1)).abs().max())
        return bits <= 8 and 2 * (self.grid.quant_max - self.grid.quant_min) * largest >= 2**15

    @property
    def owner(self) -> str:
        """The layer that holds the weight: itself, or the one it is tied to."""
        return self.layer.tied_to or self.layer.name


@dataclass(frozen=True, eq=False)
class Quantized:
    """A network under a policy, as it was measured and as it is stored; the input of exporters.

    Attributes:
        simulation: computes with quantized weights and inputs. An engine's own network stays so until it applies another policy.
        base: the same network without weights and biases of `stored`; nothing in it quantizes inputs.
        stored: every layer, in network order.
        example: one batch of model inputs.
        notes: warnings for the user.
        others: batches in which other axes than the first have other sizes than in `example`.
    """

    simulation: nn.Module
    base: nn.Module
    stored: tuple[StoredLayer, ...]
    example: Any
    notes: tuple[str, ...] = ()
    others: tuple[Any, ...] = ()

    @property
    def plain(self) -> nn.Module:
        """A network that holds the weights and biases of `stored` and quantizes no input."""
        return installed(self.base, self.stored)


def on_cpu(network: Quantized) -> Quantized:
    """Return the network with copies of all its tensors on the CPU, where exporters work; itself where it is there."""
    if device_of(network.simulation) in (None, CPU):
        return network
    simulation, base = (copy.deepcopy(part).to(CPU) for part in (network.simulation, network.base))
    stored, (example, *others) = map(_on_cpu, network.stored), to_device((network.example, *network.others), CPU)
    return replace(network, simulation=simulation, base=base, stored=tuple(stored), example=example, others=tuple(others))


def _on_cpu(layer: StoredLayer) -> StoredLayer:
    encoded, bias = layer.encoded, layer.bias
    if encoded is not None:
        encoded = Encoded(*(to_device(getattr(encoded, field.name), CPU) for field in fields(encoded)))
    return replace(layer, weight=layer.weight.to(CPU), encoded=encoded, bias=None if bias is None else bias.to(CPU))


def post_training(engine: PostTraining, network: nn.Module, layers: Sequence[Layer], policy: Policy, example: Any) -> Quantized:
    """Return `network` quantized by `policy` without training, as `engine`, which was made of it, simulates it.

    Raises:
        BitfrontError: codes do not decode to the weight that the simulation uses.
    """
    return Quantized(engine.apply(policy), fold_batch_norm(network, example, share=True), stored_layers(engine, layers, policy), example)


def stored_layers(engine: PostTraining, layers: Sequence[Layer], policy: Policy) -> tuple[StoredLayer, ...]:
    """Return every layer as `engine` simulates `policy`, in network order.

    Raises:
        BitfrontError: the codes of a layer do not decode to the weight that the simulation uses, bit for bit.
    """
    model = engine.apply(policy)
    rows = []
    for layer in layers:
        module, wanted = layer_module(model, layer), policy[layer.name]
        weight, bias = module.get_parameter("weight").detach(), module._parameters.get("bias")
        weight = weight.clone() if weight.is_inference() else weight
        if not layer.calls:
            wanted = LayerPolicy(FLOAT, FLOAT)
        encoded = None if wanted.weight.is_float else engine.encoded(layer.name, wanted.weight)
        if encoded is not None:
            require_same(layer, wanted.weight, encoded, weight)
        rows.append(
            StoredLayer(layer, wanted, weight, encoded, None if bias is None else bias.detach().clone(), _grid(engine, layer, wanted))
        )
    return tuple(rows)


def require_same(layer: Layer, spec: QuantSpec, encoded: Encoded, weight: Tensor) -> None:
    """Refuse codes that are not the weight of the simulation.

    Raises:
        BitfrontError: they differ in a bit.
    """
    again = decode(encoded, spec, layer.weight_shape, channel_axis=layer.channel_axis)
    if not torch.equal(again.to(weight.dtype), weight):
        raise BitfrontError(f"layer {layer.name!r}: the codes of {spec} do not give the simulated weight; report this.")


def installed(model: nn.Module, stored: Sequence[StoredLayer]) -> nn.Module:
    """Return a copy of `model` that holds the weights and biases of `stored` themselves, to be read only; inputs are not quantized."""
    model = sharing_copy(model)
    for layer in stored:
        module = layer_module(model, layer.layer)
        module.register_parameter("weight", nn.Parameter(layer.weight, requires_grad=False))
        if "bias" in module._parameters:
            module.register_parameter("bias", None if layer.bias is None else nn.Parameter(layer.bias, requires_grad=False))
    return model


def _grid(engine: PostTraining, layer: Layer, policy: LayerPolicy) -> QParams | None:
    if policy.activation.is_float or layer.name not in engine.statistics:
        return None
    return ActivationQuantizer(policy.activation, engine.statistics[layer.name], -1 - len(layer.kernel)).static
