"""Folding that is checked: the prepared float network must give the outputs of the network that the user brought."""

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.copies import versions
from quant_core.network.fold import fold_batch_norm, foldable_norms
from quant_core.network.forward import first_examples, forward
from quant_core.network.reference import reference_network
from quant_core.util.errors import BitfrontError, BitfrontWarning
from quant_core.util.rng import repeatable
from quant_core.util.text import listed

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of outputs over the largest output, by the type of the outputs. Rounding in folding leaves less than a tenth of it."""
CHECKED = 4
"""Examples that are compared."""
SHOWN = 5


class UnfaithfulFoldWarning(BitfrontWarning):
    """Batch norms that could not be folded without changing the network; the message names the layers."""


def fold_faithfully(model: nn.Module, example: Any) -> nn.Module:
    """Return a copy of `model`, in eval mode, with as many batch norms folded as leave its outputs on `example` as they are.

    Parameters that are not folded lie where those of `model` do, unless its forward pass writes into them: write into none of the copy's.
    Where the folded copy gives other outputs, every fold is tried by itself, and those that change the outputs are left out with a
    warning that names their layers.

    Args:
        model: trained, float; it is not touched.
        example: one batch of model inputs.

    Raises:
        BitfrontError: a copy without any fold gives other outputs than the network: it is not a function of its inputs.
    """
    reference, example = reference_network(model, quiet=True), first_examples(example, CHECKED)
    before = versions(reference)
    expected = _outputs(reference, example)
    share = versions(reference) == before
    folded = fold_batch_norm(reference, example, share=share)
    if difference(_outputs(folded, example), expected) <= _tolerance(expected):
        return folded
    return _without_unfaithful(reference, example, expected, share)


def _without_unfaithful(reference: nn.Module, example: Any, expected: Tensor, share: bool) -> nn.Module:
    """Leave out the folds that change the outputs, one by one; all of them where that does not help."""
    with repeatable(), torch.no_grad():
        names = list(foldable_norms(reference, example))
    alone = {name: fold_batch_norm(reference, example, [other for other in names if other != name], share=share) for name in names}
    guilty = [name for name, copy in alone.items() if difference(_outputs(copy, example), expected) > _tolerance(expected)]
    for skipped in (guilty, names):
        folded = fold_batch_norm(reference, example, skipped, share=share)
        if difference(_outputs(folded, example), expected) <= _tolerance(expected):
            warnings.warn(_unfaithful(skipped), UnfaithfulFoldWarning, stacklevel=4)
            return folded
    off = difference(_outputs(folded, example), expected)
    raise BitfrontError(
        f"a copy of the network gives other outputs than the network itself, off by {off:.2g} of the largest: it keeps state between "
        f"calls, or reads something outside of itself. Give a network whose output depends on its input alone."
    )


def difference(outputs: Tensor, expected: Tensor) -> float:
    """Return the largest difference of outputs over the largest expected output; infinity where shapes differ or NaN is new."""
    if outputs.shape != expected.shape or not torch.equal(outputs.isfinite(), expected.isfinite()):
        return float("inf")
    finite = expected.isfinite()
    scale = float(expected[finite].abs().amax()) if finite.any() else 0.0
    off = float((outputs[finite].double() - expected[finite].double()).abs().amax()) if finite.any() else 0.0
    return off / scale if scale else off


def _tolerance(expected: Tensor) -> float:
    return TOLERANCES.get(expected.dtype, 1e-3)


def _outputs(model: nn.Module, example: Any) -> Tensor:
    with torch.no_grad(), repeatable():
        return forward(model, example)


def _unfaithful(names: Collection[str]) -> str:
    return f"batch norms after {listed(names, SHOWN)} are not folded: the outputs of the float network would change."
