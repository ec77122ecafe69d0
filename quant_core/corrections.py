"""Post-training corrections: bias correction and cross-layer equalisation (Nagel et al., "Data-Free Quantization", ICCV 2019)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quant_core.dataflow import Dataflow, record
from quant_core.fold import TRANSPOSED, per_output
from quant_core.forward import forward
from quant_core.layer import Layer
from quant_core.statistics import TensorStatistics
from quant_core.trace import first_example, is_transformers_conv1d

_HOMOGENEOUS = ("relu", "relu_", "leaky_relu", "leaky_relu_")
_ROUNDS = 20


def output_shift(module: nn.Module, weight_error: Tensor, statistics: TensorStatistics) -> Tensor:
    """Return E[e x] per output channel, [C_out]: the mean shift of a layer's output when its weight is off by `weight_error`.

    Section 4.2 of the paper with the measured mean input. A layer is linear in its input, so its response to the mean input, averaged
    over positions, is the exact mean over the calibration data: padding, stride and groups included. Subtract it from the bias.
    """
    parameters = {"weight": weight_error}
    if module._parameters.get("bias") is not None:
        parameters["bias"] = torch.zeros_like(module.get_parameter("bias"))
    total: Tensor | float = 0.0
    positions = 0
    with torch.no_grad():
        for mean, count in statistics.means.values():
            response = functional_call(module, parameters, ((mean / count).to(weight_error.dtype)[None],))
            sites = response.reshape(response.shape[1], -1)
            total = total + sites.sum(dim=1) * count
            positions += count * sites.shape[1]
    return torch.as_tensor(total / max(positions, 1))


def equalize(model: nn.Module, layers: Sequence[Layer], example: Any) -> list[tuple[str, str]]:
    """Move scale between consecutive layers, in place, so that both use their weight ranges alike; return the pairs (section 4.1).

    Layer b follows a directly or through ReLU or leaky ReLU (which commute with positive factors; ReLU6 does not), nothing else reads
    what lies between, each is called once, and no weight is shared. With r1, r2 the largest weights of a's output channel and b's input
    channel, a's weight and bias are divided by s = sqrt(r1 / r2) and b's weight is multiplied by it (equation 11), until nothing moves.
    The outputs of the network do not change. It serves depthwise networks whose weights have one scale per tensor; fold batch norms first.
    """
    shared = {layer.tied_to for layer in layers} | {layer.name for layer in layers if layer.tied_to}
    usable = {
        layer.name: model.get_submodule(layer.name)
        for layer in layers
        if layer.calls == 1 and layer.kind != "embedding" and layer.name not in shared
    }
    inputs = first_example(example)
    flow = record(model, usable, lambda: forward(model, inputs))
    pairs = [(name, _next_layer(flow, name)) for name in usable]
    pairs = [(a, b) for a, b in pairs if b and _matching(usable[a], usable[b])]
    with torch.no_grad():
        for _ in range(_ROUNDS):
            moved = max((_balance(usable[a], usable[b]) for a, b in pairs), default=0.0)
            if moved < 1e-3:
                break
    return pairs


def _next_layer(flow: Dataflow, name: str) -> str:
    """Return the layer that alone reads the output of `name`, directly or through homogeneous activations, or ""."""
    value = flow.calls[name][0].write
    while value not in flow.outputs:
        readers = flow.readers(value)
        if len(readers) != 1 or readers[0].owner or readers[0].op not in _HOMOGENEOUS:
            return flow.sole_reader(value)
        value = readers[0].writes
    return ""


def _matching(a: Any, b: Any) -> bool:
    """A layer's output channels are the next one's input channels (not so where a linear layer reads the last axis of an image)."""
    same_family = isinstance(a, nn.Linear) == isinstance(b, nn.Linear) and is_transformers_conv1d(a) == is_transformers_conv1d(b)
    return same_family and _by_output(a).shape[0] == _by_input(b).shape[0]


def _balance(a: Any, b: Any) -> float:
    """Equalise one pair; return the largest |log s|."""
    r1, r2 = _by_output(a).abs().amax(dim=1), _by_input(b).abs().amax(dim=1)
    scale = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), torch.ones_like(r1))
    a.weight /= per_output(a, scale)
    if a.bias is not None:
        a.bias /= scale
    b.weight *= _per_input(b, scale)
    return float(scale.log().abs().max())


def _by_output(layer: Any) -> Tensor:
    """Return the weight as [C_out, everything that makes one output channel]."""
    weight: Tensor = layer.weight
    if isinstance(layer, TRANSPOSED):
        grouped = weight.reshape(layer.groups, weight.shape[0] // layer.groups, weight.shape[1], -1)
        return grouped.transpose(1, 2).reshape(layer.out_channels, -1)
    return weight.t() if is_transformers_conv1d(layer) else weight.flatten(1)


def _by_input(layer: Any) -> Tensor:
    """Return the weight as [C_in, everything that reads one input channel]."""
    weight: Tensor = layer.weight
    if isinstance(layer, TRANSPOSED) or is_transformers_conv1d(layer):
        return weight.flatten(1)
    groups = _groups(layer)
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.transpose(1, 2).reshape(groups * weight.shape[1], -1)


def _per_input(layer: Any, values: Tensor) -> Tensor:
    """Shape one value per input channel [C_in] so that it multiplies the layer's weight."""
    weight: Tensor = layer.weight
    if isinstance(layer, TRANSPOSED) or is_transformers_conv1d(layer):
        return values.reshape(-1, *(1,) * (weight.dim() - 1))
    groups = _groups(layer)
    spread = values.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return spread.reshape(weight.shape[:2] + (1,) * (weight.dim() - 2))


def _groups(layer: Any) -> int:
    return 1 if isinstance(layer, nn.Linear) else int(layer.groups)
