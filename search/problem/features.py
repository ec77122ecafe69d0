"""The features of layers that the HAQ agent sees: the state of the paper (arXiv 1811.08886, section 3.1), and two more columns."""

from collections.abc import Mapping, Sequence

import numpy as np

from quant_core.spec.layer import Layer
from search.problem.problem import FloatArray
from spaces.space import Dimension

PAPER = ("depthwise", "in_channels", "out_channels", "stride", "kernel", "weights", "in_size", "index", "activation")
"""Columns of the paper's state (equations 1 and 2); the previous action is added during the episode. Linear layers: stride 0, kernel 1."""
BEYOND = ("macs", "activations")
"""Columns that the paper does not have."""


def features(layers: Sequence[Layer], dimensions: Sequence[Dimension], beside: int = 0) -> tuple[FloatArray, tuple[str, ...]]:
    """Return [D, F] in [0, 1] for the free slots of a network, and the names of the columns; tied layers are averaged.

    `beside` is the number of dimensions that are of no layer and come last; they are seen as the mean of all layers.
    """
    index = {layer.name: n for n, layer in enumerate(layers)}
    rows = np.array([[*_state(layer), n] for n, layer in enumerate(layers)], dtype=np.float64).reshape(len(layers), -1)
    averaged = np.array([rows[[index[name] for name in dimension.layers]].mean(axis=0) for dimension in dimensions]).reshape(
        len(dimensions), rows.shape[1]
    )
    averaged = np.concatenate([averaged, np.tile(rows.mean(axis=0), (beside, 1))])
    columns = dict(zip((*PAPER[:7], *BEYOND, "index"), averaged.T, strict=True))
    columns["activation"] = np.array([*(float(dimension.slot == "activation") for dimension in dimensions), *[0.5] * beside])
    return unit(columns, (*PAPER, *BEYOND))


def unit(columns: Mapping[str, FloatArray], names: Sequence[str]) -> tuple[FloatArray, tuple[str, ...]]:
    """Return the named columns [D] scaled from their least to their greatest value, side by side: [D, F]; constant ones become 0."""
    table = np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1)
    span = np.ptp(table, axis=0) if len(table) else np.ones(len(names))
    least = table.min(axis=0) if len(table) else np.zeros(len(names))
    return (table - least) / np.where(span > 0, span, 1.0), tuple(names)


def _state(layer: Layer) -> tuple[float, ...]:
    """Return the first seven columns of the paper, then those beyond it, unscaled."""
    return (
        float(layer.kind == "depthwise"), layer.in_channels, layer.out_channels, max(layer.stride, default=0),
        max(layer.kernel, default=1), layer.weights, max(layer.in_size, default=1), layer.macs, layer.in_elements,
    )  # fmt: skip
