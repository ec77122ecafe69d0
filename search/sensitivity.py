"""How much each single choice hurts: one-layer-out divergence from the float network, measured by forward passes, kept on disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant_core.errors import InputError
from quant_core.files import cache_folder, write_text
from quant_core.forward import forward
from quant_core.ptq import PostTraining
from search.problem import FloatArray
from spaces.space import Space

EXAMPLES = 512
Compare = Callable[[Tensor, Tensor], tuple[float, int]]


@dataclass
class Sensitivity:
    """Measures, once, how far the outputs move from the float network's when one dimension leaves its widest choice.

    The divergence is the mean Kullback-Leibler divergence, in nats, of the outputs' softmax; where the network gives one number per
    example (a logit, a regression), of Gaussians around it with the variance that the float network's outputs have.

    Attributes:
        engine: quantizes the network.
        space: what may be chosen.
        calib: inputs of the calibration batches; the first `EXAMPLES` examples are used.
        key: what the figures depend on: weights, data, choices; limits do not matter.
        evaluations: forward passes spent; 0 when the figures came from disk.
    """

    engine: PostTraining
    space: Space
    calib: Sequence[Any]
    key: str
    evaluations: int = 0

    def __call__(self) -> tuple[FloatArray, ...]:
        """Return per dimension [K_d] the rise of the divergence against every dimension at its widest choice."""
        path = cache_folder() / "sensitivity" / f"{hashlib.sha256(self.key.encode()).hexdigest()[:20]}.json"
        found = self._read(path)
        if found is None:
            found = self._measure()
            try:
                write_text(path, json.dumps([each.tolist() for each in found]))
            except InputError:  # a cache that cannot be written costs time, not the sweep
                return found
        return found

    def _read(self, path: Path) -> tuple[FloatArray, ...] | None:
        try:
            data = tuple(np.asarray(each, dtype=np.float64) for each in json.loads(path.read_text()))
        except (OSError, ValueError):
            return None
        return data if tuple(map(len, data)) == self.space.cardinalities else None

    def _measure(self) -> tuple[FloatArray, ...]:
        batches = self._batches()
        widest = [max(range(len(each.choices)), key=lambda k, each=each: each.choices[k].bits) for each in self.space.dimensions]  # type: ignore[misc]
        with torch.inference_mode():
            self.engine.restore()
            reference = [forward(self.engine.model, inputs) for inputs in batches]
            compare = _comparison(reference)
            base = self._divergence(widest, batches, reference, compare)
            rises = []
            for d, dimension in enumerate(self.space.dimensions):
                points = ([*widest[:d], k, *widest[d + 1 :]] for k in range(len(dimension.choices)))
                rises.append(np.array([self._divergence(p, batches, reference, compare) - base if p != widest else 0.0 for p in points]))
        return tuple(rises)

    def _divergence(self, values: Sequence[int], batches: Sequence[Any], reference: Sequence[Tensor], compare: Compare) -> float:
        self.evaluations += 1
        model = self.engine.apply(self.space.policy(values))
        total, count = 0.0, 0
        for inputs, target in zip(batches, reference, strict=True):
            divergence, distributions = compare(forward(model, inputs), target)
            total, count = total + divergence, count + distributions
        return total / count

    def _batches(self) -> list[Any]:
        taken, count = [], 0
        for inputs in self.calib:
            if count >= EXAMPLES:
                break
            taken.append(inputs)
            count += next(leaf.shape[0] for leaf in torch.utils._pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
        return taken


def _comparison(reference: Sequence[Tensor]) -> Compare:
    """Return what gives the summed divergence of found from wanted outputs, and of how many distributions it is."""
    if any(outputs[0].numel() > 1 for outputs in reference):
        return _softmax_divergence
    spread = float(torch.cat([outputs.flatten() for outputs in reference]).double().var(correction=0).clamp_min(1e-12))
    return lambda found, wanted: (float((found.double() - wanted.double()).square().sum()) / (2 * spread), wanted.numel())


def _softmax_divergence(found: Tensor, wanted: Tensor) -> tuple[float, int]:
    log_p, log_q = _log_probabilities(wanted), _log_probabilities(found)
    return float((log_p.exp() * (log_p - log_q)).sum()), wanted.numel() // wanted.shape[_class_axis(wanted)]


def _class_axis(outputs: Tensor) -> int:
    """Return the axis of the classes: 1 for [N, C] and [N, C, H, W], the last for [N, T, C]."""
    return -1 if outputs.dim() == 3 else 1


def _log_probabilities(outputs: Tensor) -> Tensor:
    return outputs.log_softmax(dim=_class_axis(outputs))
