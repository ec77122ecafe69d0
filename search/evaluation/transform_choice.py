"""The sensitivity of the last dimension of a space, the transform of the network, beside those of the layers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quant_core.network.forward import forward
from search.evaluation.divergence import Reference
from search.evaluation.engines import Engines
from search.evaluation.sensitivity import Sensitivity
from search.problem.problem import FloatArray
from spaces.space import Space


@dataclass(frozen=True, eq=False)
class TransformSensitivity:
    """Measures the divergence under every transform while each layer takes its middle choice, above that of the best transform.

    The layers' own sensitivities are those under the first transform.

    Attributes:
        layers: the sensitivities of the layers.
        engines: of the transforms.
        space: with several transforms.
    """

    layers: Sensitivity
    engines: Engines
    space: Space

    def __call__(self) -> tuple[FloatArray, ...]:
        """Return per dimension [K_d] the rise of the divergence, the transforms' last."""
        rises = self.layers()
        middle = [len(dimension.choices) // 2 for dimension in self.space.dimensions]
        batches, measured = self.layers.batches(), []
        with torch.inference_mode():
            wanted = [forward(self.layers.engine.restore(), inputs) for inputs in batches]
            compare = Reference(batches, wanted, self.layers.class_axis).compare
            for k in range(len(self.space.transforms)):
                policy = self.space.policy([*middle, k])
                network = self.engines.engine(policy).apply(policy)
                sums = [compare(forward(network, inputs), outputs) for inputs, outputs in zip(batches, wanted, strict=True)]
                measured.append(sum(total for total, _ in sums) / max(sum(count for _, count in sums), 1))
        row = np.array(measured)
        return (*rises, row - row.min())


def with_transforms(layers: Sensitivity, engines: Engines, space: Space) -> Callable[[], tuple[FloatArray, ...]]:
    """Return the sensitivities of all dimensions of `space`; those of the layers where it has no choice of transforms."""
    return TransformSensitivity(layers, engines, space) if len(space.transforms) > 1 else layers
