"""How much each single choice hurts: divergence from the float network, measured or estimated from gradients, kept on disk."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from quant_core.network.cutting import cut
from quant_core.network.forward import examples_of, forward
from quant_core.ptq.engine import PostTraining
from quant_core.util import rng
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import cache_folder, write_text
from search.evaluation.adaptive import Spent, adaptive, estimated, exact
from search.evaluation.divergence import PART, Reference
from search.evaluation.fisher import PASSES, fisher_scores
from search.evaluation.in_sample import independent, prediction_factors
from search.evaluation.one_out import widest_choices
from search.problem.problem import FloatArray
from spaces.space import Space

EXAMPLES = 512
NEGLIGIBLE = 1e-12
ACTIVATION_BYTES = 96 * 2**20
"""Most bytes of the outputs of all layers on one chunk of the examples: they are kept to start behind them. A backward pass over a
chunk keeps about four times as much."""
Method = Literal["auto", "forward", "gradient", "fisher"]


@dataclass
class Sensitivity:
    """Measures or estimates, once, how far the outputs move from the float network's when one dimension leaves its widest choice.

    The divergence is the mean Kullback-Leibler divergence, in nats: where the outputs are logits of classes, of their softmax; where they
    are values (one logit, a regression, a mask, an image), of Gaussians around them with the variance that the float network's outputs
    have, which is the squared output error relative to that variance.

    Methods: "forward" measures one choice at a time, in a time that grows with the square of the layers. "gradient" estimates all choices
    by the gradients of the float network times the errors of what ships. "fisher" keeps of this the diagonal, without what one element's
    error does to another's. "auto" estimates by "gradient", measures the choices that are likeliest to change a plan, and brings the
    estimates to the scale of the measured, within `passes`; where measuring all costs no more, or there are at most `FEW` choices to
    measure and `FULL` passes, it is "forward" to the last bit.

    Attributes:
        engine: quantizes the network.
        space: what may be chosen.
        calib: inputs of the calibration batches; the first `EXAMPLES` examples are used, in whole batches.
        key: of the cache file, see `search.sweeps.fingerprints.sensitivity_key`.
        method: how.
        class_axis: axis of the outputs that holds the logits of classes; None: the outputs are values.
        passes: what "auto" may spend, in forward passes over the examples; a pass that starts behind a prefix counts as its share of the
            multiply-accumulates.
        spent: what was spent; nothing where the figures came from disk.
        report: is told how many steps are done, and how many there are in all.
    """

    engine: PostTraining
    space: Space
    calib: Sequence[Any]
    key: str
    method: Method = "forward"
    class_axis: int | None = None
    passes: float = 30.0
    report: Callable[[int, int], None] = lambda _done, _total: None
    spent: Spent = field(default_factory=Spent, init=False)

    @property
    def evaluations(self) -> int:
        """Forward passes begun, each over the examples."""
        return self.spent.evaluations

    def __call__(self) -> tuple[FloatArray, ...]:
        """Return per dimension [K_d] the rise of the divergence against every dimension at its widest choice.

        Raises:
            BitfrontError: no choice changes the outputs at all, so that nothing can be planned from them; or the method needs gradients
                that the network does not give.
        """
        path = cache_folder() / "sensitivity" / f"{self.key}.json"
        rises = self._read(path)
        if rises is None:
            self.report(0, 0)
            most = self._chunk()
            batches = cut(self.batches(), most)
            with torch.inference_mode():
                outputs = [forward(self.engine.restore(), inputs) for inputs in batches]
            self.spent.add(evaluations=1, equivalents=1.0)
            rises = self._measured(Reference(batches, outputs, self.class_axis, min(PART, max(1, most // 2))))
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

    def _measured(self, reference: Reference) -> tuple[FloatArray, ...]:
        """Return the rises that hold for new examples: what is fitted to the calibration examples looks better on them than it is."""
        examples = sum(map(examples_of, self.calib))
        space = independent(self.space, self.engine.layers, examples)
        rises, factors = self._on_calib(space, reference), prediction_factors(space, self.engine.layers, examples)
        return tuple(row * factor for row, factor in zip(rises, factors, strict=True))

    def _on_calib(self, space: Space, reference: Reference) -> tuple[FloatArray, ...]:
        if self.method == "auto":
            return adaptive(self.engine, space, reference, self.passes, self.spent, self.report)
        if self.method == "gradient":
            return estimated(self.engine, space, reference, self.spent).rises
        if self.method == "fisher":
            return self._scored(space, reference)
        return exact(self.engine, space, reference, self.spent, self.report)

    def _scored(self, space: Space, reference: Reference) -> tuple[FloatArray, ...]:
        generator, compare, parts = rng.generator(0), reference.compare, reference.parts(reference.part)
        scores = fisher_scores(self.engine, space, parts, lambda outputs: compare.sampled_nll(outputs, generator))
        self.spent.add(evaluations=PASSES - 1, equivalents=PASSES, backward_passes=len(parts))
        widest = widest_choices(space)
        return tuple((row - row[k]) / reference.distributions for row, k in zip(scores, widest, strict=True))

    def _chunk(self) -> int:
        """Return how many examples have layer outputs of at most `ACTIVATION_BYTES`, and no more than the cache."""
        bytes_of_one = 4 * sum(layer.out_elements * layer.calls for layer in self.engine.layers)
        return max(1, min(ACTIVATION_BYTES, self.engine.cache_bytes) // max(1, bytes_of_one))

    def batches(self) -> list[Any]:
        """Return the inputs that divergences are measured on."""
        taken, count = [], 0
        for inputs in self.calib:
            if count >= EXAMPLES:
                break
            taken.append(inputs)
            count += examples_of(inputs)
        return taken


def _checksum(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _require_differences(rises: Sequence[FloatArray]) -> None:
    if any(len(row) > 1 for row in rises) and all(np.abs(row).max(initial=0.0) <= NEGLIGIBLE for row in rises):
        raise BitfrontError(
            "no choice of the space changes the network's outputs on the calibration examples, so that nothing can be planned. "
            "Give Task a class_axis, other calibration data, or search with searcher = 'random'."
        )
