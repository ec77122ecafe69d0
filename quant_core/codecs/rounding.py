"""Rounding of a real number of steps to an integer: to nearest with ties to even, or stochastic."""

import torch
from torch import Tensor

from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.rng import uniform


def round_steps(steps: Tensor, spec: QuantSpec, generator: torch.Generator | None) -> Tensor:
    """Round `steps` as `spec` says.

    Stochastic: floor(v) + [u < v - floor(v)], u uniform in [0, 1) from `generator` (integers stay; the mean is v). Comparing fractions
    instead of flooring v + u keeps large v unbiased. `adaround` rounds to nearest here: AdaRound moves the weights onto the grid before.
    """
    if spec.rounding != "stochastic":
        return steps.round()
    floor = steps.floor()
    return floor + (uniform(tuple(steps.shape), generator, steps.device) < steps - floor)
