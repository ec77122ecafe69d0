"""The post-training engines of one network: one per transform of it, made when a policy first asks for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy
from quant_core.transforms.apply import transformed
from quant_core.util.cache import CacheCounts
from quant_core.util.errors import InputError


@dataclass(frozen=True, eq=False)
class _Variant:
    """The float network under one transform, what was done to it in words, and its engine."""

    network: nn.Module
    changes: str
    engine: PostTraining


class Engines:
    """Engines by transform. Each has statistics, moments and a cache of its own, so that each calibrates in at most two passes.

    Args:
        model: the float network.
        batches: model inputs for calibration.
        transforms: that policies may ask for; the first one's engine is made now.
        make: a network -> its engine.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Any], transforms: Sequence[str], make: Callable[[nn.Module], PostTraining]
    ) -> None:
        self._model, self._batches, self._transforms, self._make = model, batches, tuple(transforms), make
        self._variants: dict[str, _Variant] = {}
        self.first = self._under(self._transforms[0]).engine

    def network(self, policy: Policy) -> nn.Module:
        """Return the float network under the policy's transform."""
        return self._under(policy.transform).network

    def engine(self, policy: Policy) -> PostTraining:
        """Return the engine of the network under the policy's transform."""
        return self._under(policy.transform).engine

    def changes(self, policy: Policy) -> str:
        """Return the changes of the policy's transform, in words; "" of none."""
        return self._under(policy.transform).changes

    @property
    def calibration_passes(self) -> int:
        """Passes over the calibration batches of all engines so far."""
        return sum(variant.engine.calibration_passes for variant in self._variants.values())

    @property
    def statistics_bytes(self) -> int:
        """Bytes of memory held by the statistics and moments of all engines."""
        return sum(variant.engine.statistics_bytes for variant in self._variants.values())

    def counts(self) -> tuple[CacheCounts, CacheCounts]:
        """Return the sums of the engines' hits and misses: quantized weights, ranges of activations."""
        weights, ranges = CacheCounts(), CacheCounts()
        for variant in self._variants.values():
            weights.add(variant.engine.counts)
            ranges.add(variant.engine.range_counts)
        return weights, ranges

    def _under(self, name: str) -> _Variant:
        if name not in self._variants:
            if name not in self._transforms:
                names = ", ".join(self._transforms)
                raise InputError(f"a policy under network = {name!r} given; the layers were traced for {names}.")
            with torch.inference_mode(mode=False):  # its tensors are used with and without
                changed = transformed(self._model, name, self._batches)
                self._variants[name] = _Variant(changed.model, changed.changes, self._make(changed.model))
        return self._variants[name]
