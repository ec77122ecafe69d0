"""Smoothing: scales moved from the inputs of linear layers into what makes these inputs, a norm or a layer, so that fewer bits hold them.

SmoothQuant (Xiao et al., ICML 2023, arXiv 2211.10438), equation 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha); X' = X / s, W' = W s.
As in AWQ (Lin et al., MLSys 2024, arXiv 2306.00978), section 3.2, alpha is the one of a grid whose output error is least, group by group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs.quantize import decode, encode
from quant_core.network.copies import sharing_copy
from quant_core.network.fold import shared_layers
from quant_core.network.forward import forward, watched_inputs
from quant_core.network.trace import is_transformers_conv1d
from quant_core.spec.quant_spec import parse
from quant_core.transforms.flow import find_streams
from quant_core.transforms.maps import ChannelMap
from quant_core.transforms.parts import Parts, map_input, map_norm, map_output, parts_of
from quant_core.transforms.streams import Source, Stream
from quant_core.util import rng

ALPHAS = tuple(i / 10 for i in range(11))
WEIGHT = parse("int4:channel")
"""What the error is judged at, with inputs of 4 bits per row."""
ROWS = 512
"""Rows of each group's input by which it is judged: an even sample of the first batches that hold so many."""


@dataclass(frozen=True)
class Group:
    """Layers whose input is scaled.

    Attributes:
        source: the norm or the layer that makes the input.
        readers: the layers.
        alpha: of the scales; None: the group is left as it is.
        error: of the outputs with these scales, relative to the error without any.
    """

    source: str
    readers: tuple[str, ...]
    alpha: float | None
    error: float


@dataclass(frozen=True)
class Smoothed:
    """A network with scales moved.

    Attributes:
        model: a copy; parameters that are not changed lie where the original's do.
        groups: in network order, those that are left too.
    """

    model: nn.Module
    groups: tuple[Group, ...] = ()


def smooth(model: nn.Module, batches: Sequence[Any], skip: Sequence[str] = ()) -> Smoothed:
    """Return `model` with the inputs of every group of linear layers scaled whose scales can be moved exactly.

    A group is a norm, or a linear layer, and the layers that alone read its output. Layers that share their weight are left.

    Args:
        model: in eval mode, float; it is not touched.
        batches: model inputs for calibration; as many are read as hold `ROWS` rows.
        skip: layers that are left as they are.
    """
    model = sharing_copy(model)
    parts = parts_of(model, batches[0])
    shared = {*shared_layers(model), *skip}
    streams = [stream for stream in _streams(model, parts, batches[0]) if not shared.intersection((*stream.sources, *stream.sinks))]
    rows = _rows(model, {stream.sinks[0]: parts.layers[stream.sinks[0]] for stream in streams}, batches)
    groups = []
    for stream in streams:
        readers = tuple(dict.fromkeys(stream.sinks))
        alpha, scale, error = _best(rows[readers[0]], [_by_row(parts.layers[name]) for name in readers])
        if alpha is not None:
            channel_map = ChannelMap(len(scale), scale=scale)
            _apply(parts, stream.sources[0], readers, channel_map)
        groups.append(Group(stream.sources[0], readers, alpha, error))
    return Smoothed(model, tuple(groups))


def _streams(model: nn.Module, parts: Parts, example: Any) -> list[Stream]:
    """Return the streams of one source, a norm or a linear layer, that linear layers alone read."""
    generator = rng.generator(2)
    maps: dict[int, ChannelMap] = {}

    def source(name: str, output: Tensor) -> Source | None:
        if name not in parts.gains and name not in parts.linear:
            return None
        size = output.shape[-1]
        if size not in maps:
            maps[size] = ChannelMap(size, scale=torch.rand(size, generator=generator, dtype=torch.float64) + 0.5)
        return Source(maps[size])

    streams = find_streams(model, example, layers=parts.layers, readers=parts.linear, opaque=parts.opaque, source=source, constants={})
    return [stream for stream in streams if not stream.broken and stream.sinks and len(stream.sources) == 1]


def _apply(parts: Parts, source: str, readers: Sequence[str], scale: ChannelMap) -> None:
    if source in parts.layers:
        map_output(parts.layers[source], scale)
    else:
        assert scale.scale is not None
        map_norm(parts.opaque[source], parts.gains[source], scale.scale)
    for name in readers:
        map_input(parts.layers[name], scale)


def _rows(model: nn.Module, modules: Mapping[str, nn.Module], batches: Sequence[Any]) -> dict[str, Tensor]:
    """Return [n, K] rows of the input of every module, `ROWS` where the batches have so many."""
    kept: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1])
        step = max(1, len(rows) // ROWS)
        kept[name].append(rows[::step][:ROWS].float())

    with torch.no_grad(), watched_inputs(modules, keep):
        for inputs in batches:
            forward(model, inputs)
            if all(sum(map(len, rows)) >= ROWS for rows in kept.values()):
                break
    return {name: torch.cat(rows) if rows else torch.zeros(0, 1) for name, rows in kept.items()}


def _by_row(layer: Any) -> Tensor:
    """Return the weight as [outputs, inputs]."""
    weight: Tensor = layer.weight.detach().float()
    return weight.t().contiguous() if is_transformers_conv1d(layer) else weight


def _best(rows: Tensor, weights: Sequence[Tensor]) -> tuple[float | None, Tensor, float]:
    """Return the alpha of least output error, the factors [K] of the input that it gives, and its error relative to that of none."""
    ones = torch.ones(weights[0].shape[1], dtype=torch.float64)
    if not len(rows):
        return None, ones, 1.0
    largest_input = rows.abs().amax(dim=0).clamp_min(1e-8)
    largest_weight = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0).clamp_min(1e-8)
    plain = _error(rows, weights, torch.ones_like(largest_input))
    best: tuple[float | None, Tensor, float] = (None, ones, plain)
    for alpha in ALPHAS:
        scale = largest_input**alpha / largest_weight ** (1 - alpha)
        scale = (scale / (scale.amax() * scale.amin()).sqrt()).clamp(1e-4, 1e4)
        error = _error(rows, weights, scale)
        if error < best[2]:
            best = (alpha, 1.0 / scale.double().cpu(), error)
    return best[0], best[1], best[2] / plain if plain else 1.0


def _error(rows: Tensor, weights: Sequence[Tensor], scale: Tensor) -> float:
    """Return the squared error of the outputs with weights and inputs of 4 bits: |X'_q W'_q^T - X W^T|^2."""
    inputs = rows / scale
    step = inputs.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 7
    quantized = (inputs / step).round() * step
    error = 0.0
    for weight in weights:
        scaled = weight * scale
        rounded = decode(encode(scaled, WEIGHT), WEIGHT, tuple(scaled.shape)).to(scaled.dtype)
        error += float((quantized @ rounded.t() - rows @ weight.t()).square().sum())
    return error
