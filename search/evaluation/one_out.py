"""Measured rises: the divergence of one choice at a time, with everything else at its widest choice."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from quant_core.network.forward import forward
from quant_core.network.parameters import own_modules
from quant_core.network.replay import ActivationReplay
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import LayerPolicy
from search.evaluation.divergence import Divergence
from search.problem.problem import FloatArray
from spaces.space import Space

Choice = tuple[int, int]
"""A dimension and one of its choices."""
LEAST = 0.05
"""Least cost of a forward pass in which layers are replayed, in forward passes: their outputs are copied, and the rest still runs."""


def widest_choices(space: Space) -> list[int]:
    """Return per dimension the choice of the most bits."""
    bits = [[choice.bits for choice in dimension.choices] for dimension in space.dimensions]
    return [row.index(max(row)) for row in bits]


class OneOut:
    """Measures choices on batches; layers that run before the changed one are not computed again.

    They return what they did under the widest choices, and their inputs are not quantized meanwhile.

    Args:
        engine: quantizes the network.
        space: what may be chosen.
        compare: the divergence.
    """

    def __init__(self, engine: PostTraining, space: Space, compare: Divergence) -> None:
        self._engine, self._space, self._compare = engine, space, compare
        self._widest = widest_choices(space)
        self._modules = own_modules(engine.model, engine.layers)
        macs = {layer.name: layer.macs for layer in engine.layers}
        self._macs = macs if sum(macs.values()) else dict.fromkeys(macs, 1)

    def shares(self, inputs: Any) -> list[float]:
        """Return per dimension what a forward pass for one of its choices costs: the share of the multiply-accumulates that run."""
        prefix = self._prefix(inputs)
        return [self._share(prefix.before(dimension.layers)) for dimension in self._space.dimensions]

    def rises(
        self, inputs: Any, wanted: Tensor, choices: Mapping[int, Sequence[int]], done: Callable[[float], None]
    ) -> dict[int, FloatArray]:
        """Return per dimension [K_d] the summed divergence on one batch, above that of the widest choices.

        Args:
            inputs: the batch.
            wanted: the float network's outputs.
            choices: per dimension what to measure; the rest is 0.
            done: is told after every dimension what its forward passes cost, in forward passes over the batch.
        """
        prefix, rises = self._prefix(inputs), {}
        base = self._compare(prefix.outputs, wanted)[0]
        for d, measured in choices.items():
            before, rises[d] = prefix.before(self._space.dimensions[d].layers), np.zeros(self._space.cardinalities[d])
            with prefix.replayed(before):
                for k in measured:
                    policy = self._space.policy([*self._widest[:d], k, *self._widest[d + 1 :]])
                    unread = {name: LayerPolicy(weight=policy[name].weight) for name in before}
                    outputs = forward(self._engine.apply(policy.with_layers(dict(policy) | unread)), inputs)
                    rises[d][k] = self._compare(outputs, wanted)[0] - base
            done(len(measured) * self._share(before))
        return rises

    def _prefix(self, inputs: Any) -> ActivationReplay:
        network = self._engine.apply(self._space.policy(self._widest))
        return ActivationReplay(network, self._modules, inputs, self._engine.cache_bytes)

    def _share(self, replayed: Sequence[str]) -> float:
        total = sum(self._macs.values())
        return max(LEAST, 1.0 - sum(self._macs[name] for name in replayed) / total)
