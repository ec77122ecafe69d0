"""How much each single choice hurts: divergence from the float network, by forward passes or one backward pass, kept on disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from quant_core.network.forward import forward
from quant_core.network.replay import ActivationReplay
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder, write_text
from search.evaluation.fisher import PASSES, fisher_scores
from search.problem.problem import FloatArray
from spaces.space import Space

EXAMPLES = 512
PART = 16
Compare = Callable[[Tensor, Tensor], tuple[float, int]]


@dataclass
class Sensitivity:
    """Measures, once, how far the outputs move from the float network's when one dimension leaves its widest choice.

    The divergence is the mean Kullback-Leibler divergence, in nats, of the outputs' softmax; where the network gives one number per
    example (a logit, a regression), of Gaussians around it with the variance that the float network's outputs have.

    By `method` "forward" one choice at a time is measured; by "fisher" all are scored from the gradients of one backward pass, to second
    order and without what one element's error does to another's: cheaper, and less true.

    Attributes:
        engine: quantizes the network.
        space: what may be chosen.
        calib: inputs of the calibration batches; the first `EXAMPLES` examples are used, in whole batches.
        key: what the figures depend on: weights, data, choices; limits do not matter.
        evaluations: forward passes spent, each over the examples; 0 when the figures came from disk.
    """

    engine: PostTraining
    space: Space
    calib: Sequence[Any]
    key: str
    method: Literal["forward", "fisher"] = "forward"
    evaluations: int = 0

    def __call__(self) -> tuple[FloatArray, ...]:
        """Return per dimension [K_d] the rise of the divergence against every dimension at its widest choice."""
        path = cache_folder() / "sensitivity" / f"{hashlib.sha256(self.key.encode()).hexdigest()[:20]}.json"
        found = self._read(path)
        if found is None:
            found = self._measure() if self.method == "forward" else self._scored()
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
        widest = self._widest()
        sums, count = [np.zeros(len(each.choices)) for each in self.space.dimensions], 0
        with torch.inference_mode():
            batches = self._batches()
            self.engine.restore()
            reference = [forward(self.engine.model, inputs) for inputs in batches]
            compare = _comparison(reference)
            for inputs, wanted in zip(batches, reference, strict=True):
                sums = [total + each for total, each in zip(sums, self._rises(inputs, wanted, widest, compare), strict=True)]
                count += compare(wanted, wanted)[1]
        self.evaluations += 1 + sum(len(each) - 1 for each in sums)
        return tuple(each / count for each in sums)

    def _scored(self) -> tuple[FloatArray, ...]:
        batches = self._batches()
        with torch.inference_mode():
            reference = [forward(self.engine.restore(), inputs) for inputs in batches]
        compare, generator = _comparison(reference), torch.Generator().manual_seed(0)
        count = sum(compare(wanted, wanted)[1] for wanted in reference)
        parts = [part for inputs in batches for part in _parts(inputs)]
        found = fisher_scores(self.engine, self.space, parts, lambda outputs: _surprise(outputs, compare, generator))
        self.evaluations += PASSES
        widest = self._widest()
        return tuple((each - each[k]) / count for each, k in zip(found, widest, strict=True))

    def _rises(self, inputs: Any, wanted: Tensor, widest: Sequence[int], compare: Compare) -> list[FloatArray]:
        """Return per dimension [K_d] the summed divergence on one batch, above that of the widest choices.

        Layers that run before the changed one are not computed again: they return what they did under the widest choices, and their
        inputs are not quantized meanwhile.
        """
        modules = {name: self.engine.model.get_submodule(name) for name in self.space.base}
        prefix = ActivationReplay(self.engine.apply(self.space.policy(widest)), modules, inputs)
        base, found = compare(prefix.outputs, wanted)[0], []
        for d, dimension in enumerate(self.space.dimensions):
            done, rises = prefix.before(dimension.layers), np.zeros(len(dimension.choices))
            with prefix.replayed(done):
                for k in range(len(dimension.choices)):
                    if k != widest[d]:
                        policy = self.space.policy([*widest[:d], k, *widest[d + 1 :]])
                        unread = {name: LayerPolicy(weight=policy[name].weight) for name in done}
                        rises[k] = compare(forward(self.engine.apply(Policy(dict(policy) | unread)), inputs), wanted)[0] - base
            found.append(rises)
        return found

    def _widest(self) -> list[int]:
        return [max(range(len(each.choices)), key=lambda k, each=each: each.choices[k].bits) for each in self.space.dimensions]  # type: ignore[misc]

    def _batches(self) -> list[Any]:
        taken, count = [], 0
        for inputs in self.calib:
            if count >= EXAMPLES:
                break
            taken.append(inputs)
            count += _examples(inputs)
        return taken


def _examples(inputs: Any) -> int:
    return next(int(leaf.shape[0]) for leaf in torch.utils._pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))


def _parts(inputs: Any) -> list[Any]:
    """Cut a batch into parts of `PART` examples: the squared gradient of each is one sample of the information."""

    def part(first: int) -> Any:
        return torch.utils._pytree.tree_map(lambda leaf: leaf[first : first + PART] if isinstance(leaf, Tensor) else leaf, inputs)

    return [part(first) for first in range(0, _examples(inputs), PART)]


def _comparison(reference: Sequence[Tensor]) -> Compare:
    """Return what gives the summed divergence of found from wanted outputs, and of how many distributions it is."""
    if any(outputs[0].numel() > 1 for outputs in reference):
        return _softmax_divergence
    spread = float(torch.cat([outputs.flatten() for outputs in reference]).double().var(correction=0).clamp_min(1e-12))
    return lambda found, wanted: (float((found.double() - wanted.double()).square().sum()) / (2 * spread), wanted.numel())


def _softmax_divergence(found: Tensor, wanted: Tensor) -> tuple[float, int]:
    log_p, log_q = _log_probabilities(wanted), _log_probabilities(found)
    return float((log_p.exp() * (log_p - log_q)).sum()), wanted.numel() // wanted.shape[_class_axis(wanted)]


def _surprise(outputs: Tensor, compare: Compare, generator: torch.Generator) -> Tensor:
    """Return the summed negative log-likelihood of labels drawn from the outputs; its gradients have the Fisher information as variance."""
    if compare is not _softmax_divergence:
        spread = outputs.numel() / (2 * compare(outputs.detach() + 1, outputs.detach())[0])
        noise: Tensor = (outputs * torch.randn(outputs.shape, generator=generator)).sum() / spread**0.5
        return noise
    rows = _log_probabilities(outputs).movedim(_class_axis(outputs), -1).flatten(end_dim=-2)
    labels = torch.multinomial(rows.detach().exp(), 1, generator=generator)
    drawn: Tensor = -rows.gather(1, labels).sum()
    return drawn


def _class_axis(outputs: Tensor) -> int:
    """Return the axis of the classes: 1 for [N, C] and [N, C, H, W], the last for [N, T, C]."""
    return -1 if outputs.dim() == 3 else 1


def _log_probabilities(outputs: Tensor) -> Tensor:
    return outputs.log_softmax(dim=_class_axis(outputs))
