"""How much each single choice hurts: divergence from the float network, by forward passes or one backward pass, kept on disk."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from quant_core.network.forward import forward
from quant_core.network.parameters import own_modules
from quant_core.network.replay import ActivationReplay
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import cache_folder, write_text
from search.evaluation.fisher import PASSES, fisher_scores
from search.problem.problem import FloatArray
from spaces.space import Space

EXAMPLES = 512
PART = 16
NEGLIGIBLE = 1e-12
Compare = Callable[[Tensor, Tensor], tuple[float, int]]


@dataclass
class Sensitivity:
    """Measures, once, how far the outputs move from the float network's when one dimension leaves its widest choice.

    The divergence is the mean Kullback-Leibler divergence, in nats: where the outputs are logits of classes, of their softmax; where they
    are values (one logit, a regression, a mask, an image), of Gaussians around them with the variance that the float network's outputs
    have, which is the squared output error relative to that variance.

    By `method` "forward" one choice at a time is measured; by "fisher" all are scored from the gradients of one backward pass, to second
    order and without what one element's error does to another's: cheaper, and less true.

    Attributes:
        engine: quantizes the network.
        space: what may be chosen.
        calib: inputs of the calibration batches; the first `EXAMPLES` examples are used, in whole batches.
        key: of the cache file, see `search.sweeps.fingerprints.sensitivity_key`.
        class_axis: axis of the outputs that holds the logits of classes; None: the outputs are values.
        report: is told after every dimension how many are done, and how many there are in all, over all batches.
        evaluations: forward passes spent, each over the examples; 0 when the figures came from disk.
    """

    engine: PostTraining
    space: Space
    calib: Sequence[Any]
    key: str
    method: Literal["forward", "fisher"] = "forward"
    class_axis: int | None = None
    evaluations: int = 0
    report: Callable[[int, int], None] = lambda _done, _total: None
    _steps: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)

    def __call__(self) -> tuple[FloatArray, ...]:
        """Return per dimension [K_d] the rise of the divergence against every dimension at its widest choice.

        Raises:
            BitfrontError: no choice changes the outputs at all, so that nothing can be planned from them.
        """
        path = cache_folder() / "sensitivity" / f"{self.key}.json"
        rises = self._read(path)
        if rises is None:
            rises = self._measure() if self.method == "forward" else self._scored()
            _require_differences(rises)
            values = [row.tolist() for row in rises]
            with contextlib.suppress(InputError):  # a cache that cannot be written costs time, not the sweep
                write_text(path, json.dumps({"rises": values, "sha256": _checksum(values)}))
        return rises

    def _read(self, path: Path) -> tuple[FloatArray, ...] | None:
        """Return the cached rises; None where there are none, or the file is not as it was written."""
        try:
            data = json.loads(path.read_text())
            rises = tuple(np.asarray(row, dtype=np.float64) for row in data["rises"])
            if data["sha256"] != _checksum(data["rises"]) or not all(np.isfinite(row).all() for row in rises):
                return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return rises if tuple(map(len, rises)) == self.space.cardinalities else None

    def _measure(self) -> tuple[FloatArray, ...]:
        widest = self._widest()
        sums, count = [np.zeros(len(dimension.choices)) for dimension in self.space.dimensions], 0
        with torch.inference_mode():
            batches = self._batches()
            self.engine.restore()
            reference = [forward(self.engine.model, inputs) for inputs in batches]
            compare = _comparison(reference, self.class_axis)
            self._steps, self._total = 0, len(batches) * len(self.space.dimensions)
            for inputs, wanted in zip(batches, reference, strict=True):
                sums = [total + rises for total, rises in zip(sums, self._rises(inputs, wanted, widest, compare), strict=True)]
                count += compare(wanted, wanted)[1]
        self.evaluations += 1 + sum(len(total) - 1 for total in sums)
        return tuple(total / count for total in sums)

    def _scored(self) -> tuple[FloatArray, ...]:
        batches = self._batches()
        with torch.inference_mode():
            reference = [forward(self.engine.restore(), inputs) for inputs in batches]
        compare, generator = _comparison(reference, self.class_axis), torch.Generator().manual_seed(0)
        count = sum(compare(wanted, wanted)[1] for wanted in reference)
        parts = [part for inputs in batches for part in _parts(inputs)]
        scores = fisher_scores(self.engine, self.space, parts, lambda outputs: compare.sampled_nll(outputs, generator))
        self.evaluations += PASSES
        widest = self._widest()
        return tuple((row - row[k]) / count for row, k in zip(scores, widest, strict=True))

    def _rises(self, inputs: Any, wanted: Tensor, widest: Sequence[int], compare: Compare) -> list[FloatArray]:
        """Return per dimension [K_d] the summed divergence on one batch, above that of the widest choices.

        Layers that run before the changed one are not computed again: they return what they did under the widest choices, and their
        inputs are not quantized meanwhile.
        """
        modules = own_modules(self.engine.model, self.engine.layers)
        prefix = ActivationReplay(self.engine.apply(self.space.policy(widest)), modules, inputs, self.engine.cache_bytes)
        base, per_dimension = compare(prefix.outputs, wanted)[0], []
        for d, dimension in enumerate(self.space.dimensions):
            done, rises = prefix.before(dimension.layers), np.zeros(len(dimension.choices))
            with prefix.replayed(done):
                for k in range(len(dimension.choices)):
                    if k != widest[d]:
                        policy = self.space.policy([*widest[:d], k, *widest[d + 1 :]])
                        unread = {name: LayerPolicy(weight=policy[name].weight) for name in done}
                        rises[k] = compare(forward(self.engine.apply(Policy(dict(policy) | unread)), inputs), wanted)[0] - base
            per_dimension.append(rises)
            self._steps += 1
            self.report(self._steps, self._total)
        return per_dimension

    def _widest(self) -> list[int]:
        bits = [[choice.bits for choice in dimension.choices] for dimension in self.space.dimensions]
        return [row.index(max(row)) for row in bits]

    def _batches(self) -> list[Any]:
        taken, count = [], 0
        for inputs in self.calib:
            if count >= EXAMPLES:
                break
            taken.append(inputs)
            count += _examples(inputs)
        return taken


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _examples(inputs: Any) -> int:
    return next(int(leaf.shape[0]) for leaf in torch.utils._pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))


def _parts(inputs: Any) -> list[Any]:
    """Cut a batch into parts of `PART` examples: the squared gradient of each is one sample of the information."""

    def part(first: int) -> Any:
        return torch.utils._pytree.tree_map(lambda leaf: leaf[first : first + PART] if isinstance(leaf, Tensor) else leaf, inputs)

    return [part(first) for first in range(0, _examples(inputs), PART)]


@dataclass(frozen=True)
class _ClassDivergence:
    """Kullback-Leibler divergence of the softmax along one axis, summed."""

    axis: int

    def __call__(self, outputs: Tensor, wanted: Tensor) -> tuple[float, int]:
        log_p, log_q = wanted.log_softmax(dim=self.axis), outputs.log_softmax(dim=self.axis)
        return float((log_p.exp() * (log_p - log_q)).sum()), wanted.numel() // wanted.shape[self.axis]

    def sampled_nll(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        rows = outputs.log_softmax(dim=self.axis).movedim(self.axis, -1).flatten(end_dim=-2)
        labels = torch.multinomial(rows.detach().exp(), 1, generator=generator)
        return -rows.gather(1, labels).sum()


@dataclass(frozen=True)
class _ValueDivergence:
    """Kullback-Leibler divergence of Gaussians around the values, of one variance, summed: half the relative squared error."""

    variance: float

    def __call__(self, outputs: Tensor, wanted: Tensor) -> tuple[float, int]:
        return float((outputs.double() - wanted.double()).square().sum()) / (2 * self.variance), wanted.numel()

    def sampled_nll(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        noise: Tensor = (outputs * torch.randn(outputs.shape, generator=generator)).sum() / self.variance**0.5
        return noise


def _comparison(reference: Sequence[Tensor], class_axis: int | None) -> _ClassDivergence | _ValueDivergence:
    """Return the divergence of outputs from the float network's, (outputs, reference) -> (sum, how many distributions).

    It also gives the summed negative log-likelihood of labels drawn from outputs, whose gradients have the Fisher information as variance.
    """
    first = reference[0]
    if class_axis is not None and -first.dim() <= class_axis < first.dim() and first.shape[class_axis] > 1:
        return _ClassDivergence(class_axis)
    return _ValueDivergence(float(torch.cat([outputs.flatten() for outputs in reference]).double().var(correction=0).clamp_min(1e-12)))


def _require_differences(rises: Sequence[FloatArray]) -> None:
    if any(len(row) > 1 for row in rises) and all(np.abs(row).max(initial=0.0) <= NEGLIGIBLE for row in rises):
        raise BitfrontError(
            "no choice of the space changes the network's outputs on the calibration examples, so that nothing can be planned. "
            "Give Task a class_axis, other calibration data, or search with searcher = 'random'."
        )
