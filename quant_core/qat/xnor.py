"""Finalized binary layers run through the XNOR-popcount kernel: integers of signs, then the scales (XNOR-Net, section 3.2)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.kernels.packed_signs import binary_conv2d, binary_linear
from quant_core.qat.prepare import input_quantizers
from quant_core.qat.ste import FormatInput


def with_xnor(model: nn.Module) -> nn.Module:
    """Return a copy of a finalized network in which every Linear and Conv2d with binary weights and binary inputs uses the kernel.

    Only zero padding is known to the kernel; convolutions with another stay as they are.
    """
    model = copy.deepcopy(model)
    binary = [
        name
        for name, quantizer in input_quantizers(model).items()
        if isinstance(quantizer, FormatInput) and quantizer.spec.format == "binary"
    ]
    for name in binary:
        layer = model.get_submodule(name)
        if not _is_binary(layer.get_parameter("weight")):
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            setattr(parent, name.rpartition(".")[2], XnorConv2d(layer))
        elif isinstance(layer, nn.Linear):
            setattr(parent, name.rpartition(".")[2], XnorLinear(layer))
    return model


class XnorLinear(nn.Module):
    """A finalized binary `nn.Linear`: x [..., K] -> [..., N]."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.scale = layer, _scales(layer.weight)

    def integers(self, x: Tensor) -> Tensor:
        """Return sign(x) @ sign(w).T, int32."""
        if x.device.type != "cpu":
            return F.linear(_signs(x), _signs(self.layer.weight)).to(torch.int32)
        return torch.from_numpy(binary_linear(x.detach().numpy(), self.layer.weight.numpy()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the integers times the scales of input and weights, and the bias."""
        outputs = self.integers(x) * _input_scale(self.layer, x) * self.scale
        return outputs if self.layer.bias is None else outputs + self.layer.bias


class XnorConv2d(nn.Module):
    """A finalized binary `nn.Conv2d`: x [N, C, H, W] -> [N, O, H', W']."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, self.scale = layer, _scales(layer.weight).reshape(-1, 1, 1)

    def integers(self, x: Tensor) -> Tensor:
        """Return conv2d(sign(x), sign(w)), int32; padding adds zeros."""
        arguments = (self.layer.stride, self.layer.padding, self.layer.dilation, self.layer.groups)
        if x.device.type != "cpu":
            return F.conv2d(_signs(x), _signs(self.layer.weight), None, *arguments).to(torch.int32)
        return torch.from_numpy(binary_conv2d(x.detach().numpy(), self.layer.weight.numpy(), *arguments))

    def forward(self, x: Tensor) -> Tensor:
        """Return the integers times the scales of input and weights, and the bias."""
        outputs = self.integers(x) * _input_scale(self.layer, x) * self.scale
        return outputs if self.layer.bias is None else outputs + self.layer.bias.reshape(-1, 1, 1)


def _signs(x: Tensor) -> Tensor:
    """Return +1 where x >= 0 and -1 elsewhere, float32: sums of up to 2^24 of them are exact. It defines the kernel, on any device."""
    return torch.where(x.detach() >= 0, 1.0, -1.0)


def _is_binary(weight: Tensor) -> bool:
    """Tell whether every output channel holds one magnitude, not 0."""
    rows = weight.detach().reshape(len(weight), -1).abs()
    return bool((rows == rows[:, :1]).all() and (rows > 0).all())


def _scales(weight: Tensor) -> Tensor:
    """Return the magnitude of each output channel, [O]."""
    return weight.detach().reshape(len(weight), -1)[:, 0].abs()


def _input_scale(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the one magnitude that the input quantizer gives this batch."""
    quantizer = layer.get_submodule("input_quantizer")
    magnitude: Tensor = quantizer(x).abs().max()
    return magnitude
