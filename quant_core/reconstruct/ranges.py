"""The step of a layer's static input, for the layer's outputs: calibration makes the errors of inputs least, all channels alike."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn

from quant_core.network.forward import first_input
from quant_core.network.linearity import weight_response
from quant_core.ptq.activation import to_grid
from quant_core.reconstruct.figures import OutputFigures
from quant_core.reconstruct.held import Held
from quant_core.reconstruct.learn import Stretch
from quant_core.reconstruct.state import ReconstructedNetwork

FACTORS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.12, 1.25)
FEWEST, MOST = 4, 8
"""Parts of the examples that are looked at, so many at least and at most, spread over all."""
VALUES = 2**22
"""Output values that are enough: layers with large outputs are looked at on `FEWEST` parts."""


def fit_step(stretch: Stretch, network: ReconstructedNetwork, name: str, wanted: Held, parts: Sequence[int]) -> None:
    """Set the step of a layer's static input to the one, of `FACTORS` times it, whose outputs are nearest to the float network's.

    The weight is float, the inputs are what quantized layers give, and outputs may be off by a constant per channel. Layers that are
    called several times, or whose outputs are not linear in the weight, keep their step. The network is left quantized.

    Args:
        stretch: that holds the layer.
        network: computes.
        name: of the layer.
        wanted: its outputs in the float network, of `parts`; one of every part, otherwise the step is kept.
        parts: numbers of the parts of the examples.
    """
    learned = network.inputs.get(name)
    if learned is None or learned.factor is None or learned.quantizer.static is None or network.calls(name) != 1:
        return
    if len(wanted) != len(parts):  # some examples pass it by
        return
    grid, places = learned.quantizer.static, _places(len(parts), wanted[0].numel())
    sums = [OutputFigures(network.output_axis(name)) for _ in FACTORS]
    with torch.no_grad():
        for place, x in zip(places, _inputs(stretch, network, name, [parts[place] for place in places]), strict=False):
            for factor, figures in zip(FACTORS, sums, strict=True):
                rounded = to_grid(x, grid.scale * factor, *grid[1:])
                output = weight_response(network.modules[name], network.float_weight(name), rounded, network.response(name))
                if output is None or output.shape != wanted[place].shape:
                    return
                figures.update(wanted[place] - output)
    errors = [float(figures.result()[1].sum()) for figures in sums]
    factor = FACTORS[errors.index(min(errors))]
    network.adopt({}, {name: grid._replace(scale=float(np.float32(grid.scale * factor)))})
    network.quantized()


def _places(count: int, values: int) -> list[int]:
    """Return which of `count` parts are looked at, where one has so many output values: as many as give `VALUES`, within bounds."""
    taken = min(count, max(FEWEST, min(MOST, -(-VALUES // max(values, 1)))))
    return [number * count // taken for number in range(taken)]


def _inputs(stretch: Stretch, network: ReconstructedNetwork, name: str, parts: Sequence[int]) -> Iterator[Tensor]:
    """Yield the inputs of a layer that is called once, as they come, before it quantizes them."""
    seen: list[Tensor] = []

    def take(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        seen.append(first_input(args, kwargs).clone())
        raise SeenError

    for index in parts:
        handle = network.modules[name].register_forward_pre_hook(take, with_kwargs=True, prepend=True)
        try:
            with suppress(SeenError):
                stretch.forward(index, None if stretch.quantized is None else stretch.quantized[index])
        finally:
            handle.remove()
        if not seen:  # quantized layers before it decided otherwise
            return
        yield seen.pop()


class SeenError(Exception):
    """What was looked for was seen: the rest of a pass is not needed."""
