"""Errors of weights that were rounded to fit the calibration examples, judged on the same examples: they look too small there.

GPTQ and AdaRound make the error of a layer's output least on the calibration data. With K inputs per output and n rows of them, the error
on new rows is larger by (n + K) / (n - K), as that of a regression with K coefficients is: Akaike's final prediction error ("Statistical
predictor identification", Ann. Inst. Statist. Math. 22, 1970). With few rows nearly all error can hide where the examples do not look.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec
from search.problem.problem import FloatArray
from spaces.space import Dimension, Space

FITTED = ("gptq", "adaround")
"""Roundings that look at the calibration examples."""
FEW_ROWS = 2.0
"""Below so many rows per input, rounding to nearest stands for the rounding that is fitted: the factor above would be more than 3."""


def rows_per_input(layer: Layer, examples: int) -> float:
    """Return n / K: rows of inputs that one output sees in `examples` examples, over the weights of one output."""
    inputs = layer.weights / max(1, layer.weight_shape[layer.channel_axis]) if layer.weight_shape else 1.0
    return examples * max(1, layer.calls) * math.prod(layer.out_size) / max(1.0, inputs)


def independent(space: Space, layers: Sequence[Layer], examples: int) -> Space:
    """Return the space in which weights of layers with few rows are rounded to nearest, which does not look at the examples."""
    ratios = {layer.name: rows_per_input(layer, examples) for layer in layers}
    return replace(space, dimensions=tuple(_plain(dimension, ratios) for dimension in space.dimensions))


def _plain(dimension: Dimension, ratios: Mapping[str, float]) -> Dimension:
    if dimension.slot != "weight" or min(ratios[name] for name in dimension.layers) >= FEW_ROWS:
        return dimension
    return replace(dimension, choices=tuple(replace(spec, rounding="nearest") if _fitted(spec) else spec for spec in dimension.choices))


def prediction_factors(space: Space, layers: Sequence[Layer], examples: int) -> tuple[FloatArray, ...]:
    """Return per dimension [K_d] by what a rise on the calibration examples is multiplied to hold for new ones; 1 without a fit.

    Of layers that share a choice the largest factor counts. `space` is that of `independent`.
    """
    ratios = {layer.name: rows_per_input(layer, examples) for layer in layers}
    factors = []
    for dimension in space.dimensions:
        ratio = max(min(ratios[name] for name in dimension.layers), FEW_ROWS)
        factor = (ratio + 1) / (ratio - 1)
        fitted = dimension.slot == "weight"
        factors.append(np.array([factor if fitted and _fitted(spec) else 1.0 for spec in dimension.choices]))
    return tuple(factors)


def _fitted(spec: QuantSpec) -> bool:
    return not spec.is_float and spec.rounding in FITTED
