"""The transforms of a network by name, checked: a transformed copy must give the outputs of the network."""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.faithful import CHECKED, difference
from quant_core.network.forward import first_examples, forward
from quant_core.network.parameters import holder
from quant_core.network.recorder import stored_at
from quant_core.network.reference import reference_network
from quant_core.spec.layer import Layer
from quant_core.spec.policy import NONE, TRANSFORMS
from quant_core.transforms.rotate import Rotated, rotate
from quant_core.transforms.smooth import Smoothed, smooth
from quant_core.util.errors import BitfrontError, BitfrontWarning, InputError
from quant_core.util.registry import unknown
from quant_core.util.rng import repeatable
from quant_core.util.text import listed

TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Largest difference of outputs over the largest output."""


class TransformWarning(BitfrontWarning):
    """Parts of a network that a transform leaves as they are; the message names them."""


@dataclass(frozen=True)
class Transformed:
    """A float network under a transform.

    Attributes:
        model: gives the outputs of the original.
        changes: what was changed, in words.
        left: what was not, and why, in one sentence; "" where nothing was left.
    """

    model: nn.Module
    changes: str = ""
    left: str = ""


def transformed(model: nn.Module, name: str, batches: Sequence[Any]) -> Transformed:
    """Return `model` under the transform `name` ("none", "smooth" or "rotate"); a `TransformWarning` says what it had to leave.

    Args:
        model: float, trained; it is not touched.
        name: of `TRANSFORMS`.
        batches: model inputs for calibration. A rotation runs the first example; smoothing reads as many batches as hold 512 rows.

    Raises:
        InputError: an unknown name, or the network does not compute in float32 or float64.
        BitfrontError: the transformed copy gives other outputs: it is not a function of its inputs.
    """
    if name not in TRANSFORMS:
        raise unknown("network transform", name, TRANSFORMS)
    if name == NONE:
        return Transformed(model)
    reference = reference_network(model, quiet=True)
    types = {parameter.dtype for parameter in reference.parameters() if parameter.is_floating_point()}
    if not types <= set(TOLERANCES):
        kinds = listed(sorted(map(str, types)))
        raise InputError(f"network = {name!r} given for a network of {kinds}; float32 is needed: give it as model.float().")
    with repeatable(), torch.no_grad():
        result = _words(rotate(reference, batches[0])) if name == "rotate" else _scaled(smooth(reference, batches))
        example = first_examples(batches[0], CHECKED)
        expected, outputs = forward(reference, example), forward(result.model, example)
    off = difference(outputs, expected)
    if off > TOLERANCES.get(expected.dtype, 1e-4):
        raise BitfrontError(
            f"network = {name!r}: the transformed network gives other outputs, off by {off:.2g} of the largest; search without it, and "
            f"report the network."
        )
    if result.left:
        warnings.warn(f"network = {name!r}: {result.left}", TransformWarning, stacklevel=3)
    return result


def untied(layers: Sequence[Layer], model: nn.Module, names: Collection[str], batches: Sequence[Any]) -> tuple[Layer, ...]:
    """Return `layers` with those untied whose weight is no longer that of another layer under one of the transforms `names`.

    Such a weight is stored by itself under all of them. A rotation unties a head from its embedding: the gain of the last norm is in it.

    Args:
        layers: of `model`.
        model, batches: as `transformed` takes them.
        names: of transforms.
    """
    tied, apart = [layer for layer in layers if layer.tied_to], set[str]()
    for name in dict.fromkeys(names) if tied else ():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TransformWarning)
            network = transformed(model, name, batches).model
        for layer in tied:
            one, two = (_weight(network, place) for place in (layer.name, layer.tied_to))
            if stored_at(one) != stored_at(two):
                apart.add(layer.name)
    return tuple(replace(layer, tied_to="") if layer.name in apart else layer for layer in layers)


def _weight(network: nn.Module, name: str) -> Tensor:
    owner, key = holder(network, name)
    return owner.get_parameter(key)


def _words(rotated: Rotated) -> Transformed:
    writers, readers = (sum(len(stream[side]) for stream in rotated.streams) for side in (0, 1))
    changes = [
        f"a residual stream rotated between {writers} writers and {readers} readers, {len(rotated.folded)} norms folded"
        if rotated.streams
        else "",
        f"the values of {len(rotated.heads)} attentions rotated by head" if rotated.heads else "",
        f"the inputs of {len(rotated.online)} layers rotated at run time" if rotated.online else "",
    ]
    left = f"the residual stream is not rotated, as {rotated.refused}" if rotated.refused else ""
    done = "; ".join(change for change in changes if change)
    if left:
        left += f"; applied: {done or 'nothing'}."
    return Transformed(rotated.model, done, left)


def _scaled(smoothed: Smoothed) -> Transformed:
    moved = [group for group in smoothed.groups if group.alpha is not None]
    left = "" if smoothed.groups else "nothing is smoothed, as no norm or layer has linear layers as its only readers."
    return Transformed(smoothed.model, f"{len(moved)} of {len(smoothed.groups)} groups of layers scaled", left)
