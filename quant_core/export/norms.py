"""Batch norms that training left after layers are folded into scales and biases: codes stay, and integer operators run without them."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from quant_core.codecs.quantize import decode
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.network.copies import sharing_copy
from quant_core.network.fold import foldable_norms, gain_and_bias, replace_module


def norms_into_scales(network: Quantized) -> Quantized:
    """Return `network` with every batch norm folded that follows integers with one float scale per tensor or channel.

    w' = q (S gain), b' = (b - mean) gain + beta per output channel (Jacob et al., CVPR 2018, section 3.2); a scale is negative where
    the gain is, and one scale per tensor becomes one per channel. Outputs agree to rounding. Other weights keep their batch norm.
    """
    base = sharing_copy(network.base)
    norms = foldable_norms(base, network.example)
    stored = []
    for layer in network.stored:
        norm = norms.get(layer.layer.name)
        if norm is None or not _foldable(layer):
            stored.append(layer)
            continue
        stored.append(_folded(layer, norm))
        replace_module(base, norm, nn.Identity())
    return replace(network, base=base, stored=tuple(stored))


def _foldable(stored: StoredLayer) -> bool:
    spec, encoded = stored.policy.weight, stored.encoded
    if encoded is None or spec.format != "int" or spec.granularity not in ("tensor", "channel") or spec.scale != "fp32":
        return False
    return len(encoded.codes) == stored.layer.out_channels


def _folded(stored: StoredLayer, norm: Any) -> StoredLayer:
    encoded, spec = stored.encoded, stored.policy.weight
    assert encoded is not None
    assert encoded.scale is not None
    gain, bias = gain_and_bias(norm, stored.bias)
    silent = (gain == 0).unsqueeze(1)
    zero = torch.full_like(encoded.scale, -encoded.low) if encoded.zero_point is None else encoded.zero_point
    rows = len(encoded.codes)
    codes = torch.where(silent, zero.to(encoded.codes.dtype).expand(rows, 1), encoded.codes)
    scale = (encoded.scale.double().expand(rows, 1) * torch.where(silent, 1.0, gain.unsqueeze(1))).float()
    zero_point = None if encoded.zero_point is None else encoded.zero_point.expand(rows, 1).contiguous()
    made = replace(encoded, codes=codes, scale=scale, zero_point=zero_point)
    by_channel = replace(spec, granularity="channel")
    weight = decode(made, by_channel, stored.layer.weight_shape, channel_axis=stored.layer.channel_axis)
    policy = replace(stored.policy, weight=by_channel)
    return replace(stored, policy=policy, weight=weight.to(stored.weight.dtype), encoded=made, bias=bias.to(stored.weight.dtype))
