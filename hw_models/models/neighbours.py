"""What a runtime's kernels share, and what they take beside other ones, from rows of a profile of whole networks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hw_models.measurements import Measurement, shape_key
from hw_models.models import FloatArray, LayerChoices, Pair
from quant_core.spec.layer import Layer

Rises = Mapping[tuple[object, bool, str], float]
"""(shape, its inputs are float, "before" or "behind" it stands another) -> seconds of one call more than beside layers of its own kind."""


def pooled(rows: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return rows in which a shape has one time, the mean, where it was measured more than once.

    So it is in one mode in several policies, and in modes of equal inputs that one kernel computes, where times differ by noise.
    """
    rows = tuple(rows)
    alike: dict[object, list[float]] = {}
    for row in rows:
        alike.setdefault(_kernel_key(row), []).append(row.seconds)
    return tuple(replace(row, seconds=float(np.mean(alike[_kernel_key(row)]))) for row in rows)


def _kernel_key(row: Measurement) -> object:
    mode = replace(row.mode, weight="", weight_sign="") if row.kernel else row.mode
    return shape_key(row.layer), mode, row.kernel


def pairs_of(
    rows: Sequence[Measurement], followers: Mapping[str, Sequence[str]], layers: Sequence[Layer], choices: Sequence[LayerChoices]
) -> tuple[Pair, ...]:
    """Return the time that a layer and one that follows it take more where the inputs of one are quantized and those of the other are not.

    Several followers share what the layer before them takes more. Where nothing was measured for a shape, nothing is added.

    Args:
        rows: of the profile.
        followers: layer -> the layers that follow it.
        layers, choices: of the network.
    """
    rises, places, pairs = _rises(rows), {layer.name: n for n, layer in enumerate(layers)}, []
    for name, names in followers.items():
        for follower in names if name in places else ():
            if follower in places:
                first, second = places[name], places[follower]
                added = _added((layers[first], layers[second]), (choices[first], choices[second]), 1 / len(names), rises)
                pairs += [Pair("latency_s", first, second, added)] if added.any() else []
    return tuple(pairs)


def _rises(rows: Sequence[Measurement]) -> Rises:
    table = {(shape_key(row.layer), row.mode): row.seconds for row in rows}
    rises: dict[tuple[object, bool, str], float] = {}
    for row in rows:
        alone, side = replace(row.mode, before="", behind=""), "before" if row.mode.before else "behind"
        if row.mode != alone and (shape_key(row.layer), alone) in table:
            rises[shape_key(row.layer), alone.activation == "float", side] = row.seconds - table[shape_key(row.layer), alone]
    return rises


def _added(layers: tuple[Layer, Layer], choices: tuple[LayerChoices, LayerChoices], share: float, rises: Rises) -> FloatArray:
    """Return [K of the first, K of the second]: seconds of all calls, 0 where the inputs of both are quantized, or of none."""
    floats, floats_behind = (np.array([code == "float" for code in of_layer.activation]) for of_layer in choices)

    def rise(first_is_float: bool) -> float:
        behind = rises.get((shape_key(layers[0]), first_is_float, "behind"), 0.0) * layers[0].calls
        before = rises.get((shape_key(layers[1]), not first_is_float, "before"), 0.0) * layers[1].calls
        return behind * share + before

    added: FloatArray = np.where(floats, rise(True), rise(False))[:, None] * (floats[:, None] != floats_behind[None, :])
    return added
