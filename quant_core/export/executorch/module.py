"""A quantized network as a module whose weights are codes under a dequantizer, and whose layers quantize their inputs: what is exported."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from quant_core.codecs.qparams import QParams
from quant_core.export.executorch.storage import StoredWeight
from quant_core.export.stored import Quantized
from quant_core.network.copies import sharing_copy
from quant_core.network.forward import with_first_input
from quant_core.network.parameters import holder, layer_module
from quant_core.network.trace import is_transformers_conv1d

LOW, HIGH = -128, 127
WEIGHT_MARK = "bitfront_codes"
"""The buffer that holds a layer's codes; its name in the graph tells the layer."""


class Codes(nn.Module):
    """The weight of a layer as a parametrization of a parameter that holds one number."""

    def __init__(self, weight: StoredWeight, axis: int) -> None:
        super().__init__()
        self.block, self.axis = weight.block, axis
        self.limits = (LOW, HIGH) if weight.bits == 8 else (-8, 7)
        self.register_buffer(WEIGHT_MARK, weight.codes)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero", torch.zeros_like(weight.scale, dtype=torch.int32 if weight.block else torch.int64))

    def forward(self, _number: Tensor | None = None) -> Tensor:
        """Return the weight in float32."""
        codes, low, high = self.get_buffer(WEIGHT_MARK), *self.limits
        weight: Tensor
        if self.block:
            weight = torch.ops.torchao.dequantize_affine(codes, [1, self.block], self.scale, self.zero, torch.int8, low, high)
        else:
            weight = torch.ops.quantized_decomposed.dequantize_per_channel(codes, self.scale, self.zero, self.axis, low, high, torch.int8)
        return weight


class _Rows(nn.Module):
    """An embedding that looks its rows up in codes."""

    def __init__(self, weight: StoredWeight) -> None:
        super().__init__()
        self.kind, codes = weight.kind, weight.codes
        if weight.bits == 4:
            pairs = (codes.to(torch.int16) + 8).to(torch.uint8).reshape(len(codes), -1, 2)
            codes = pairs[..., 0] << 4 | pairs[..., 1]
        self.register_buffer(WEIGHT_MARK, codes)
        self.register_buffer("scale", weight.scale)
        self.limits = (LOW, HIGH) if weight.bits == 8 else (-8, 7)

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of the indices, float32."""
        look_up = getattr(torch.ops.quantized_decomposed, self.kind)
        rows: Tensor = look_up(self.get_buffer(WEIGHT_MARK), self.scale, None, *self.limits, input)
        return rows


class _Product(nn.Module):
    """x W + b of transformers' Conv1D, with W as codes [out, in]."""

    def __init__(self, weight: Codes, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return functional.linear(x, self.weight(), self.bias)


class Grid:
    """A forward pre-hook that quantizes a layer's first input to int8 and back; codes below 8 bits have limits of their own."""

    def __init__(self, grid: QParams) -> None:
        scale, zero_point, low, high = grid
        shift = LOW - low
        self.grid = (scale, zero_point + shift, low + shift, high + shift, torch.int8)

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments with the first one quantized."""
        return with_first_input(args, kwargs, self.quantized)

    def quantized(self, x: Tensor) -> Tensor:
        """Return `x` on the grid."""
        codes = torch.ops.quantized_decomposed.quantize_per_tensor(x, *self.grid)
        values: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(codes, *self.grid)
        return values


def with_codes(network: Quantized, weights: Mapping[str, StoredWeight], floats: Collection[str]) -> nn.Module:
    """Return the network with codes in the place of weights, and with quantizers of inputs.

    Args:
        network: as it is stored.
        weights: layer -> its weight as the file has it.
        floats: layers whose values stay in float, with their quantizer.
    """
    model = sharing_copy(network.plain)
    for stored in network.stored:
        layer, name = stored.layer, stored.layer.name
        module = layer_module(model, layer)
        if name in weights and name not in floats:
            _put(model, name, weights[name], layer.channel_axis if layer.kind not in ("linear", "embedding") else 0)
        if stored.grid is not None:
            module.register_forward_pre_hook(Grid(stored.grid), with_kwargs=True)
    return model


def _put(model: nn.Module, name: str, weight: StoredWeight, axis: int) -> None:
    owner, key = holder(model, name)
    if weight.kind.startswith("embedding"):
        _instead(owner, _Rows(weight))
        return
    codes = Codes(weight, axis)
    if type(owner).__qualname__ == "Conv1D" and is_transformers_conv1d(owner):
        _instead(owner, _Product(codes, owner._parameters.get("bias")))
        return
    setattr(owner, key, nn.Parameter(torch.zeros(1), requires_grad=False))
    parametrize.register_parametrization(owner, key, codes, unsafe=True)


def _instead(owner: nn.Module, module: nn.Module) -> None:
    """Let `module` compute in the place of `owner`."""
    for key in list(owner._parameters):
        owner.register_parameter(key, None)
    owner.add_module("instead", module)
    owner.forward = module.forward
