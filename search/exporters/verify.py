"""An export run on the test split, beside the simulation that the search measured."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from quant_core.export.stored import Quantized, StoredLayer
from quant_core.network.forward import first_example, forward
from quant_core.network.sizes import other_lengths
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.rng import repeatable
from quant_core.util.text import cut
from search.evaluation.judge import Judging
from search.evaluation.measure import take
from search.exporters import Bundle

Run = Callable[[Any], Tensor]
Made = TypeVar("Made")
AGREEMENT_8_BITS, AGREEMENT = 0.999, 0.99
"""Share of predictions whose largest output is the same, where nothing has fewer than 8 bits, and below."""
AGREEMENT_FEWER_BITS = 0.95
"""The same share where the runtime computes in fewer bits: networks have near ties."""
DIFFERENCE = 0.1
"""Of the largest output: one activation that lies between two codes may take the other one."""
DIFFERENCE_WEIGHTS = 1e-3
"""Of the largest output, where activations are float: nothing but the order of sums differs."""
ROUNDING = 2.0
"""How much further a runtime may be from the simulation than the simulation in float64 is: both round every sum, in orders of their own."""
QUIET, SUMS = 0.02, 1e-5
"""The share of predictions that differ least, which rounding leaves as they are and an error moves; and what the order of sums changes in
them, of the largest output."""

_ANY_BATCH = (
    "{graph} graph does not give the network's outputs on the first calibration batch ({reason}): the runtime computes it otherwise, or "
    "the network computes outside of torch; use safetensors."
)
_ONE_BATCH = (
    "{graph} graph runs at one batch size only ({reason}): the network has it as a constant; write its shapes after x.shape[0] or -1, "
    "as in x.reshape(x.shape[0], -1)."
)
_ONE_SIZE = (
    "{graph} graph runs at one size of its inputs only ({reason}): batches have other lengths, heights or widths, and the network has the "
    "first one's as constants; write its shapes after x.shape, or pad all batches to one size."
)
_ONE_LENGTH = "it takes sequences of the length of the data alone: {reason}"


@dataclass(frozen=True)
class Compared:
    """A runtime's outputs on the test split against the simulation's.

    Attributes:
        accuracy: in the runtime; or the task's first metric of the judged output.
        top1_agreement: share of predictions with the same largest output.
        difference: the largest difference of any output.
        largest: the largest magnitude of any output of the simulation.
        count: predictions compared.
        metric: the name of the metric in `accuracy`; "" where all metrics read more than the judged output, which a runtime gives.
        rms: the root mean square of the differences of all outputs.
        quiet: the difference within which the share `QUIET` of the predictions lies.
        rounding: the simulation in float64 against itself, where that had to be asked.
    """

    accuracy: float
    top1_agreement: float
    difference: float
    largest: float
    count: int
    metric: str = "accuracy"
    rms: float = 0.0
    quiet: float = 0.0
    rounding: "Compared | None" = None

    @property
    def apart(self) -> int:
        """The predictions with another largest output."""
        return round((1.0 - self.top1_agreement) * self.count)

    @property
    def checks(self) -> dict[str, float | str]:
        """The figures under their names in a report."""
        figures: dict[str, float | str] = {f"{self.metric}_test": self.accuracy} if self.metric else {}
        figures |= {
            "top1_agreement": self.top1_agreement,
            "largest_output_difference": self.difference,
            "largest_output": self.largest,
            "predictions": float(self.count),
        }
        return figures | ({} if self.rounding is None else {"top1_agreement_in_float64": self.rounding.top1_agreement})

    def close(self, stored: Sequence[StoredLayer], spare: int = 0, *, rounded: bool = False) -> bool:
        """Tell whether top-1 and outputs agree as they must for such layers.

        Args:
            stored: the layers.
            spare: predictions that may differ in any case.
            rounded: the runtime rounds the inputs of layers to 8 bits.
        """
        specs = [spec for layer in stored for spec in (layer.policy.weight, layer.policy.activation) if not spec.is_float]
        agreement = AGREEMENT_8_BITS if all(spec.bits >= 8 for spec in specs) and not rounded else AGREEMENT
        difference = DIFFERENCE_WEIGHTS if all(layer.grid is None for layer in stored) and not rounded else DIFFERENCE
        return self.apart <= max(spare, (1.0 - agreement) * self.count) and self.difference <= difference * self.largest

    @property
    def rounds(self) -> bool:
        """Tell whether the differences are those that rounding alone makes in this network; never where that was not asked.

        An activation that lies between two codes takes the other one after a sum in another order, and in a network of many activations
        such a step moves further ones. How far outputs then are apart, no fixed limit knows; the network itself in float64 shows it. Some
        predictions meet no such activation, and there nothing but the order of sums may show.
        """
        rounding = self.rounding
        if rounding is None:
            return False
        pairs = ((self.apart, rounding.apart), (self.rms, rounding.rms), (self.difference, rounding.difference))
        quiet = self.quiet <= ROUNDING * rounding.quiet + SUMS * self.largest
        return quiet and all(here <= ROUNDING * there for here, there in pairs)

    def __str__(self) -> str:
        share = f"top-1 agrees on {self.top1_agreement:.2%} of {self.count}"
        exact = f" (computed in float64: {self.rounding.top1_agreement:.2%}, {self.rounding.difference:.3g})" if self.rounding else ""
        return f"{share}, outputs differ by up to {self.difference:.3g} of {self.largest:.3g}{exact}"


def require_close(bundle: Bundle, comparison: Compared, runtime: str, spare: int = 0, *, rounded: bool = False) -> Compared:
    """Refuse outputs that are not the simulation's, but for what rounding alone changes in it.

    Args:
        bundle: of the export.
        comparison: of the runtime.
        runtime: its name in the message.
        spare: predictions that may differ in any case.
        rounded: the runtime rounds the inputs of layers to 8 bits.

    Returns:
        The comparison, with that of the simulation in float64 where the fixed limits do not hold.

    Raises:
        BitfrontError: they are past the tolerance.
    """
    if comparison.close(bundle.network.stored, spare, rounded=rounded):
        return comparison
    comparison = replace(comparison, rounding=comparison.rounding or in_float64(bundle))
    if not comparison.rounds:
        raise BitfrontError(f"{runtime} does not give the outputs that the search measured: {comparison}. Nothing was written.")
    return comparison


def in_float64(bundle: Bundle) -> Compared | None:
    """Compare the simulation computed in float64 with itself on the test split; None where it does not run so."""
    exact = copy.deepcopy(bundle.network.simulation).double()

    def double(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    try:
        return compare(bundle, lambda inputs: forward(exact, tree_map(double, inputs)))
    except (RuntimeError, TypeError, BitfrontError):  # the network mixes types of its own with those of its weights
        return None


def require_near(comparison: Compared, runtime: str) -> None:
    """Refuse outputs of a runtime that computes in fewer bits than the simulation, where that cannot explain them.

    The values of weights are compared exactly before; this finds a network that is put together in another way.

    Raises:
        BitfrontError: they are past the tolerance.
    """
    if comparison.top1_agreement < AGREEMENT_FEWER_BITS or comparison.difference > DIFFERENCE * comparison.largest:
        raise BitfrontError(f"{runtime} does not give the outputs that the search measured: {comparison}. Nothing was written.")


def compare(bundle: Bundle, run: Run, examples: int = 0) -> Compared:
    """Run `run` and the simulation on the test split, or on the first `examples` of it.

    Raises:
        BitfrontError: outputs of another shape, or not finite.
    """
    model = bundle.network.simulation
    score = largest = squares = 0.0
    scored = agreed = values = 0
    apart: list[Tensor] = []
    judges = tuple(judge for judge in bundle.task.judges if not judge.of_whole)
    judging = Judging(replace(bundle.task, metrics=judges)) if judges else None
    with torch.inference_mode():
        for inputs, targets in take(take(bundle.task.test, bundle.experiment.evaluate.test), examples):
            with repeatable():
                wanted = forward(model, inputs)
            with repeatable():  # noise in the network is the same
                outputs = run(inputs)
            if wanted.shape != outputs.shape or not bool(torch.isfinite(outputs).all()):
                raise BitfrontError(
                    f"the exported network gave outputs of shape {tuple(outputs.shape)}, finite ones of {tuple(wanted.shape)} are due."
                )
            if judging is not None:
                judging.add(inputs, targets, outputs, outputs)
            elif not bundle.task.judges:
                scores = bundle.task.score(outputs, targets)
                score, scored = score + float(scores.sum()), scored + scores.numel()
            largest, agreed = max(largest, float(wanted.abs().max())), agreed + int((_top(outputs) == _top(wanted)).sum())
            differences = (outputs - wanted).double().abs()
            squares, values = squares + float(differences.square().sum()), values + differences.numel()
            apart.append((differences if wanted.dim() < 2 else differences.amax(dim=_classes(wanted))).flatten())
    ranked = torch.cat(apart).sort().values
    name = judges[0].name if judges else "" if bundle.task.judges else "accuracy"
    figure = judging.figures()[name] if judging is not None else score / scored if scored else math.nan
    count, rms = ranked.numel(), math.sqrt(squares / values)
    return Compared(figure, agreed / count, float(ranked[-1]), largest, count, name, rms, float(ranked[int(QUIET * count)]))


def require_any_batch(network: Quantized, run: Run, graph: str, *, rounded: bool = False) -> None:
    """Refuse a graph that holds for the sizes of the example only, by running it on one example, and on batches of other sizes.

    Args:
        network: as it was measured.
        run: runs the graph.
        graph: its name in the message.
        rounded: the runtime rounds the inputs of layers to 8 bits, by other steps for other batches.

    Raises:
        InputError: it fails, or is further from the simulation than the example is: the network computes with a size as a constant.
    """
    allowed = math.inf
    batches = [
        (network.example, _ANY_BATCH),
        (first_example(network.example), _ONE_BATCH),
        *((other, _ONE_SIZE) for other in network.others),
    ]
    for batch, message in batches:
        with torch.inference_mode():
            wanted = forward(network.simulation, batch)
        try:
            outputs = run(batch)
            apart = float((outputs - wanted).abs().max()) if outputs.shape == wanted.shape else math.inf
            reason = "" if apart <= allowed and apart < math.inf else "it gives other outputs there"
        except BitfrontError as error:
            apart, reason = math.inf, cut(str(error), 160)
        if reason:
            raise InputError(message.format(graph=graph, reason=reason))
        if batch is network.example:  # where activations lie between two codes there are differences at any size
            allowed = DIFFERENCE * float(wanted.abs().max()) + apart * (1 + rounded)


def any_length(network: Quantized, attempt: Callable[[Quantized], Made]) -> tuple[Made, tuple[str, ...]]:
    """Return the result of `attempt` on a network whose sequences of tokens may have any length, though all batches have one.

    Where the graph does not hold for other lengths, it is made for the one of the data, and a note says so.

    Raises:
        BitfrontError: as `attempt`.
    """
    lengths = () if network.others else other_lengths(network.example, partial(forward, network.simulation))
    if not lengths:
        return attempt(network), ()
    try:
        return attempt(replace(network, others=lengths)), ()
    except BitfrontError as error:
        reason, cut_there, _ = str(error).partition("): ")  # the rest is what to do about batches of other sizes
        return attempt(network), (_ONE_LENGTH.format(reason=f"{reason})" if cut_there else reason.rstrip(".")),)


def _top(outputs: Tensor) -> Tensor:
    """Return the position of the largest output of every prediction; 0 of single values [N]."""
    return torch.zeros_like(outputs, dtype=torch.int64) if outputs.dim() < 2 else outputs.argmax(dim=_classes(outputs))


def _classes(outputs: Tensor) -> int:
    """Return the axis of the classes: 1 of images, the last of sequences [N, T, V]."""
    return -1 if outputs.dim() == 3 else 1
