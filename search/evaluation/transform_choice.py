"""The sensitivities of the last dimensions of a space, which are of the whole network, beside those of the layers."""

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
class NetworkSensitivity:
    """Measures the divergence under every transform, and every format of the KV cache, while each layer takes its middle choice, above
    that of the best. The other one is then the first.

    The layers' own sensitivities are those under the first transform, with a KV cache in float.

    Attributes:
        layers: the sensitivities of the layers.
        engines: of the transforms.
        space: with several transforms or formats of the KV cache.
    """

    layers: Sensitivity
    engines: Engines
    space: Space

    def __call__(self) -> tuple[FloatArray, ...]:
        """Return per dimension [K_d] the rise of the divergence, those of the whole network last."""
        rises = list(self.layers())
        middle = [len(dimension.choices) // 2 for dimension in self.space.dimensions]
        batches = self.layers.batches()
        with torch.inference_mode():
            wanted = [forward(self.layers.engine.restore(), inputs) for inputs in batches]
            compare = Reference(batches, wanted, self.layers.class_axis).compare
            for place, count in enumerate(self.space.network_choices):
                measured = []
                for k in range(count):
                    chosen = [k * (place == other) for other in range(len(self.space.network_choices))]
                    policy = self.space.policy([*middle, *chosen])
                    network = self.engines.engine(policy).apply(policy)
                    sums = [compare(forward(network, inputs), outputs) for inputs, outputs in zip(batches, wanted, strict=True)]
                    measured.append(sum(total for total, _ in sums) / max(sum(count for _, count in sums), 1))
                rises.append(np.array(measured) - min(measured))
        return tuple(rises)


def with_network(layers: Sensitivity, engines: Engines, space: Space) -> Callable[[], tuple[FloatArray, ...]]:
    """Return the sensitivities of all dimensions of `space`; those of the layers where it has no choice for the whole network."""
    return NetworkSensitivity(layers, engines, space) if space.network_choices else layers
