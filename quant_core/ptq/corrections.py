"""Post-training corrections: of the bias, of the scale, and cross-layer equalisation (Nagel et al., ICCV 2019, arXiv 1906.04721)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode
from quant_core.codecs.scales import FLOAT_MAX, store_scale
from quant_core.network.dataflow import Dataflow, record
from quant_core.network.fold import TRANSPOSED, per_output
from quant_core.network.forward import first_example, forward
from quant_core.network.linearity import Response, response_kind, weight_response
from quant_core.network.moments import InputMoments
from quant_core.network.parameters import own_modules
from quant_core.network.patches import weight_rows
from quant_core.network.statistics import TensorStatistics
from quant_core.network.trace import is_transformers_conv1d
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec

_HOMOGENEOUS = ("relu", "relu_", "leaky_relu", "leaky_relu_")
_ROUNDS = 20
LARGEST_GAIN = 3.0


def output_shift(module: nn.Module, weight_error: Tensor, statistics: TensorStatistics, kind: Response = "own") -> Tensor | None:
    """Return E[e x] per output channel, [C_out]: the mean shift of a layer's output when its weight is off by `weight_error`.

    Nagel et al., section 4.2, with the measured mean input. A layer is linear in its input, so its response to the mean input, averaged
    over positions, is the exact mean over the calibration data: padding, stride and groups included. Subtract it from the bias. The
    response is that of the layer's linear operation alone, without the hooks and whatever else a subclass does (`kind`, see
    `quant_core.network.linearity`); None where there is no linear part.
    """
    total: Tensor | float = 0.0
    positions = 0
    with torch.no_grad():
        for mean, count in statistics.means.values():
            response = weight_response(module, weight_error, (mean / count).to(weight_error.dtype)[None], kind)
            if response is None:
                return None
            sites = response.reshape(response.shape[1], -1)
            total = total + sites.sum(dim=1) * count
            positions += count * sites.shape[1]
    return torch.as_tensor(total / max(positions, 1))


def match_variance(
    encoded: Encoded,
    spec: QuantSpec,
    module: nn.Module,
    weight: Tensor,
    channel_axis: int,
    moments: InputMoments,
    wanted: Tensor | None = None,
) -> Encoded:
    """Return `encoded` with its float scales multiplied so that the layer's outputs keep their variance.

    Rounding to least squared error shrinks weights, and the outputs of layer after layer with them; Banner et al. (NeurIPS 2019, section
    3.3) restore the variance of the weights, here it is that of the outputs, w M w with the covariance M of the input patches.
    The factor is one per channel, or one for the tensor, as the scales are; formats without a float scale are returned
    as they are. The codes stay, so the storage does too. `wanted` is `row_energy` of the float weight, where it is known already.
    """
    if float_scales(encoded, spec) is None:
        return encoded
    quantized = decode(encoded, spec, tuple(weight.shape), channel_axis=channel_axis).to(weight.dtype)
    wanted = row_energy(module, weight, moments) if wanted is None else wanted
    return rescaled(encoded, spec, wanted, row_energy(module, quantized, moments), root=True)


def rescaled(encoded: Encoded, spec: QuantSpec, above: Tensor, below: Tensor, *, root: bool = False) -> Encoded:
    """Return `encoded` with its float scales times above / below (or its root), [R] each: one factor per row, or one for the tensor.

    A factor is at most `LARGEST_GAIN` and at least its inverse; it is 1 where one of the two is not positive. Formats whose scales are not
    one float per row or tensor are returned as they are.
    """
    scales = float_scales(encoded, spec)
    if scales is None:
        return encoded
    if len(scales) == 1:
        above, below = above.sum()[None], below.sum()[None]
    if len(scales) != len(above):
        return encoded
    ratio = (above / below).sqrt() if root else above / below
    gain = torch.where((above > 0) & (below > 0), ratio, torch.ones_like(above)).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    return with_float_scales(encoded, spec, scales * gain[:, None])


def with_variance(encoded: Encoded, spec: QuantSpec, module: nn.Module, wanted: Tensor, reached: Tensor) -> tuple[Encoded, Tensor]:
    """Return `encoded` with its float scales changed so that the variances `reached` of a layer's outputs become `wanted`, [C] each.

    The second result is what every output channel is multiplied by, its bias aside, [C]: 1 where the format has no scale that may take
    a factor per row or tensor.
    """
    before = float_scales(encoded, spec)
    if before is None or not takes_gain(spec):
        return encoded, torch.ones_like(wanted)
    groups = weight_rows(module, module.get_parameter("weight")).shape[0]
    above, below = (row_sums(module, figures.float().reshape(groups, -1)) for figures in (wanted, reached))
    changed = rescaled(encoded, spec, above, below, root=True)
    after = float_scales(changed, spec)
    assert after is not None
    sizes, others = (scales.double().abs().flatten(1).sum(dim=1) for scales in (before, after))
    gains = torch.where(sizes > 0, others / sizes.clamp_min(1e-300), torch.ones_like(sizes))
    return changed, gains.repeat(len(wanted) // len(gains)).to(wanted) if len(wanted) % len(gains) == 0 else torch.ones_like(wanted)


def with_float_scales(encoded: Encoded, spec: QuantSpec, scales: Tensor) -> Encoded:
    """Return `encoded` with other `float_scales`, rounded to how they are stored."""
    if encoded.coarse is not None:
        return replace(encoded, coarse=scales)
    if encoded.codebook is not None:
        return replace(encoded, codebook=scales)
    return replace(encoded, scale=store_scale(scales, spec.scale, FLOAT_MAX))


def takes_gain(spec: QuantSpec) -> bool:
    """Tell whether `match_variance` may change weights under `spec`: not where scales are powers of two, or there are none."""
    return spec.scale not in ("", "e8m0")


def float_scales(encoded: Encoded, spec: QuantSpec) -> Tensor | None:
    """Return the scales that may take any factor: those over integer scales, a codebook, or floats; None where there are none."""
    if encoded.coarse is not None or encoded.codebook is not None:
        return encoded.coarse if encoded.coarse is not None else encoded.codebook
    return encoded.scale if spec.scale in ("fp32", "fp16") else None


def row_sums(module: nn.Module, figures: Tensor) -> Tensor:
    """Return `figures` [groups, O] of the rows of `weight_rows` summed over the output channels that share a row of the encoded weight."""
    return figures.sum(dim=0) if isinstance(module, TRANSPOSED) else figures.flatten()


def row_energy(module: nn.Module, weight: Tensor, moments: InputMoments) -> Tensor:
    """Return w M w summed over the output channels that share a row of the encoded weight, one figure per row."""
    return row_sums(module, moments.energy(weight_rows(module, weight.float())))


def equalize(model: nn.Module, layers: Sequence[Layer], example: Any) -> list[tuple[str, str]]:
    """Move scale between consecutive layers, in place, so that both use their weight ranges alike; return the pairs.

    Nagel et al., section 4.1. Layer b follows a directly or through ReLU or leaky ReLU (which commute with positive factors; ReLU6 does
    not), nothing else reads what lies between, each is called once, and no weight is shared. With r1, r2 the largest weights of a's
    output channel and b's input channel, a's weight and bias are divided by s = sqrt(r1 / r2) and b's weight is multiplied by it
    (equation 11), until nothing moves. The outputs of the network do not change. It serves depthwise networks whose weights have one
    scale per tensor; fold batch norms first.
    """
    shared = {layer.tied_to for layer in layers} | {layer.name for layer in layers if layer.tied_to}
    modules = own_modules(model, layers)
    named = [layer.name for layer in layers if layer.calls == 1 and layer.kind != "embedding" and layer.name not in shared]
    usable = {name: modules[name] for name in named if name in modules}
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
    expanded = values.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return expanded.reshape(weight.shape[:2] + (1,) * (weight.dim() - 2))


def _groups(layer: Any) -> int:
    return 1 if isinstance(layer, nn.Linear) else int(layer.groups)


def response_of(module: nn.Module, statistics: TensorStatistics | None) -> Response:
    """Return how a layer's output depends on its weight, tested on its mean input (`quant_core.network.linearity.response_kind`)."""
    for mean, count in statistics.means.values() if statistics else ():
        return response_kind(module, (mean / count).to(module.get_parameter("weight").dtype)[None])
    return "other"
