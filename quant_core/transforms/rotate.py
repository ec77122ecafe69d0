"""Rotations fused into the weights (QuaRot, arXiv 2404.00456; SpinQuant, arXiv 2405.16406): R1 of the residual stream, R2 of heads.

Outliers of a few channels are spread over all, so that fewer bits hold them. R1 needs the gains of the norms that read the stream moved
into the layers after them; where a norm's output is read by anything else (a norm after the addition, as in BERT), there is no R1.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.copies import sharing_copy
from quant_core.network.fold import shared_layers
from quant_core.network.forward import first_example, forward
from quant_core.network.recorder import Operation, TensorRecorder
from quant_core.transforms.flow import find_streams
from quant_core.transforms.maps import ChannelMap, random_rotation
from quant_core.transforms.online import FEWEST, rotate_input
from quant_core.transforms.parts import Parts, fold_norm, map_input, map_output, parts_of, put
from quant_core.transforms.streams import Source, Stream
from quant_core.util import rng

SEED = 0
_HEADS = 4
"""Sizes of heads that are tried, the most frequent first."""


@dataclass(frozen=True)
class Rotated:
    """A network with rotations in its weights.

    Attributes:
        model: a copy; parameters that are not changed lie where the original's do.
        folded: norms whose gain is in the layers after them.
        streams: layers and parameters that write and layers that read rotated residual streams, as (writers, readers).
        heads: pairs of layers between which values are rotated in blocks of a head.
        online: layers whose input is rotated at run time (`quant_core.transforms.online`).
        refused: why the residual stream is not rotated; "" where it is.
    """

    model: nn.Module
    folded: tuple[str, ...] = ()
    streams: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    heads: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    online: tuple[str, ...] = ()
    refused: str = ""


def rotate(model: nn.Module, example: Any, seed: int = SEED) -> Rotated:
    """Return `model` with every rotation that is exact fused into its weights.

    Args:
        model: in eval mode, float; it is not touched.
        example: one batch of model inputs; the first one is run.
        seed: of the signs of the Hadamard matrices.
    """
    folded, norms = _fold_norms(sharing_copy(model), example)
    streams, reason = _residual(folded, example, seed)
    if not streams:
        folded, norms = sharing_copy(model), ()
    heads = _heads(folded, example, seed, {name for writers, _ in streams for name in writers})
    online = _rest(folded, example, seed, {name for _, readers in (*streams, *heads) for name in readers} | set(shared_layers(model)))
    return Rotated(folded, norms, streams, heads, online, reason)


def _rest(model: nn.Module, example: Any, seed: int, done: Collection[str]) -> tuple[str, ...]:
    """Rotate the inputs of all other linear layers at run time; return their names."""
    parts = parts_of(model, example)
    free = [name for name in parts.layers if name in parts.linear and name not in done]
    names = tuple(name for name in free if parts.inputs(name) >= FEWEST)
    for name in names:
        rotate_input(parts.layers[name], seed)
    return names


def _fold_norms(model: nn.Module, example: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """Move the gain of every norm that only linear layers read into these."""
    parts = parts_of(model, example)
    generator = rng.generator(1)
    maps = {size: _affine(size, generator) for size in sorted(parts.sizes)}

    def source(name: str, output: Tensor) -> Source | None:
        return Source(maps[output.shape[-1]]) if name in parts.gains else None

    folded = []
    for stream in _found(model, example, parts, source, constants=False):
        if not stream.broken and stream.sinks and len(stream.sources) == 1:
            norm = stream.sources[0]
            fold_norm(model.get_submodule(norm), parts.gains[norm], [parts.layers[sink] for sink in stream.sinks])
            folded.append(norm)
    return model, tuple(folded)


def _affine(size: int, generator: torch.Generator) -> ChannelMap:
    scale, shift = (torch.rand(size, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))
    return ChannelMap(size, scale=scale, shift=shift)


def _residual(model: nn.Module, example: Any, seed: int) -> tuple[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], str]:
    """Rotate the streams of as many channels as a norm has; return their writers and readers, or why there is none."""
    parts = parts_of(model, example)
    reason = "no layer writes as many channels as a norm reads"
    for keeps_ones in (False, True):
        maps = {size: ChannelMap(size, random_rotation(size, seed, keeps_ones=keeps_ones)) for size in sorted(parts.sizes) if size > 1}

        def source(name: str, output: Tensor, maps: dict[int, ChannelMap] = maps) -> Source | None:
            if name in parts.layers:
                size, axis = parts.outputs(name), parts.output_axis(name)
                return Source(maps[size], axis) if name in parts.linear | parts.makers and size in maps else None
            size = output.shape[-1] if output.dim() else 0
            return Source(maps[size]) if name in parts.constants and size in maps else None

        streams = _found(model, example, parts, source, constants=True)
        usable = [stream for stream in streams if not stream.broken and stream.sinks]
        through = [stream for stream in usable if len(stream.sources) > 1]
        if through:
            for stream in through:
                _apply(model, parts, stream)
            return tuple((tuple(stream.sources), tuple(dict.fromkeys(stream.sinks))) for stream in through), ""
        largest = max((stream for stream in streams if stream.broken), key=lambda stream: len(stream.sources), default=None)
        reason = largest.broken if largest is not None else reason
    return (), reason


def _heads(model: nn.Module, example: Any, seed: int, used: Collection[str]) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Rotate the values of attention, head by head, between the layers that write it and those that read the sums."""
    pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for size in _head_sizes(model, example):
        rotation = ChannelMap(size, random_rotation(size, seed), whole=False)
        parts = parts_of(model, example)
        done = {name for writers, _ in pairs for name in writers} | set(used)
        free = [name for name in parts.linear if name not in done and parts.outputs(name) % size == 0]
        for channels in _channel_choices(parts, free, size):

            def source(
                name: str, _output: Tensor, channels: dict[str, Tensor | None] = channels, rotation: ChannelMap = rotation
            ) -> Source | None:
                return Source(rotation, channels=channels[name]) if name in channels else None

            streams = [s for s in _found(model, example, parts, source, constants=False) if not s.broken and s.sinks]
            for stream in streams:
                _apply(model, parts, stream, channels)
            pairs += [(tuple(stream.sources), tuple(dict.fromkeys(stream.sinks))) for stream in streams]
            if streams:
                break
    return tuple(pairs)


def _channel_choices(parts: Parts, names: Sequence[str], size: int) -> list[dict[str, Tensor | None]]:
    """Return, per attempt, which channels of each layer are values: all; of fused layers the last, or the last third of every head."""
    whole: dict[str, Tensor | None] = dict.fromkeys(names)
    readers = sorted({parts.inputs(name) for name in parts.linear})
    tails: list[dict[str, Tensor | None]] = []
    for inputs in readers:  # of [queries, keys, values] with as many queries as the layer after the attention reads
        values = {name: (parts.outputs(name) - inputs) // 2 for name in names if (parts.outputs(name) - inputs) % (2 * size) == 0}
        tails.append({n: torch.arange(parts.outputs(n)) >= parts.outputs(n) - v for n, v in values.items() if v > 0})
    thirds: dict[str, Tensor | None] = {
        n: torch.arange(parts.outputs(n)) // size % 3 == 2 for n in names if parts.outputs(n) % (3 * size) == 0
    }
    return [attempt for attempt in (whole, *tails, thirds) if attempt]


def _head_sizes(model: nn.Module, example: Any) -> list[int]:
    """Return the last axes of second factors of batched products and of values of attention, the most frequent first."""
    sizes: Counter[int] = Counter()

    def observe(operation: Operation) -> None:
        if operation.name == "bmm" and len(operation.reads) == 2:
            sizes[operation.reads[1].shape[-1]] += 1
        if "scaled_dot_product" in operation.name and len(operation.reads) > 2:
            sizes[operation.reads[2].shape[-1]] += 1

    with torch.no_grad(), TensorRecorder([], observe):
        forward(model, first_example(example))
    return [size for size, _ in sizes.most_common(_HEADS) if size > 1]


def _found(
    model: nn.Module, example: Any, parts: Parts, source: Callable[[str, Tensor], Source | None], *, constants: bool
) -> list[Stream]:
    return find_streams(
        model,
        example,
        layers=parts.layers,
        readers=parts.linear,
        opaque=parts.opaque,
        source=source,
        constants=parts.constants if constants else {},
    )


def _apply(model: nn.Module, parts: Parts, stream: Stream, channels: dict[str, Tensor | None] | None = None) -> None:
    for name in stream.sources:
        if name in parts.layers:
            map_output(parts.layers[name], stream.map, (channels or {}).get(name))
        else:
            place, _, key = name.rpartition(".")
            put(model.get_submodule(place), key, stream.map.apply(parts.constants[name].detach().double()))
    for name in dict.fromkeys(stream.sinks):
        map_input(parts.layers[name], stream.map)
