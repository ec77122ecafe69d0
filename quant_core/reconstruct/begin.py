"""Where a block begins: every layer by GPTQ for the inputs that quantized layers give it, for the outputs of the float network.

Layer after layer, with x the inputs in the float network and x' those under the quantized layers before it,

0. the step of a static input is fitted to the layer's outputs (`quant_core.reconstruct.ranges`);
1. the second moments H of x' are shrunk to their diagonal as far as two halves of the examples disagree (`quant_core.network.shrinkage`);
2. the float weight w becomes w + `SHARE` E[(w x - w x') x'^T] H^-1, which makes good what x' lacks as far as that can be told from x'
   (Li et al., GPTAQ, ICML 2025, arXiv 2504.02692, with the shrunk H in place of damping);
3. GPTQ rounds it for H;
4. the float scales and the bias are set so that every output channel has the mean and the deviation that it has in the float network.
   Least squared errors make outputs smaller, layer after layer the more so; matching by what the quantized network really gives undoes
   that (Banner et al., NeurIPS 2019, section 3.3, and Nagel et al., ICCV 2019, section 4.2, match a layer by itself).

Where some examples judge what is learned, all of this is first done without them, so that they judge the start alike.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from quant_core.network.forward import first_input
from quant_core.network.shrinkage import shrunk_moments
from quant_core.reconstruct.figures import Lack, OutputFigures
from quant_core.reconstruct.held import Held, Room
from quant_core.reconstruct.learn import Stretch
from quant_core.reconstruct.ranges import SeenError, fit_step
from quant_core.reconstruct.state import ReconstructedNetwork

SHARE = 0.5
"""Of what the inputs lack, how much the weight makes good: it is known from the calibration examples alone."""
Figures = dict[str, tuple[Tensor, Tensor]]
"""Layer -> the means and variances of its output channels in the float network."""


def begin(stretch: Stretch, network: ReconstructedNetwork, names: Sequence[str], room: Room, parts: Sequence[int]) -> Figures:
    """Let layers store the weights from which their block is learned; return the figures of their outputs in the float network.

    It takes three passes per layer, up to that layer, and holds the outputs of one layer; and one over few parts for a static step.

    Args:
        stretch: that holds the layers.
        network: computes; it is left quantized.
        names: in order.
        room: takes the outputs.
        parts: numbers of the parts of the examples that it is for.
    """
    wanted: Figures = {}
    for name in names:
        network.in_float()
        figures, outputs = OutputFigures(network.output_axis(name)), Held(room)
        for _, output in _calls(stretch, network, name, parts, exact=True):
            figures.update(output)
            outputs.add(output)
        wanted[name] = figures.result()
        network.quantized()
        fit_step(stretch, network, name, outputs, parts)
        if network.start[name].weight.rounding == "gptq":
            _round(stretch, network, name, outputs, parts)
        outputs.close()
        match(stretch, network, [name], wanted, parts)
    return wanted


def float_figures(stretch: Stretch, network: ReconstructedNetwork, names: Sequence[str], parts: Sequence[int]) -> Figures:
    """Return the figures of the outputs of layers in the float network; the network is left quantized. Arguments as of `begin`."""
    network.in_float()
    figures = {name: OutputFigures(network.output_axis(name)) for name in names}
    for name in names:
        for _, output in _calls(stretch, network, name, parts, exact=True):
            figures[name].update(output)
    network.quantized()
    return {name: outputs.result() for name, outputs in figures.items()}


def match(stretch: Stretch, network: ReconstructedNetwork, names: Sequence[str], wanted: Figures, parts: Sequence[int]) -> None:
    """Set scales and biases so that outputs have the mean and deviation of the float network's; a pass per layer, up to that layer.

    Scales only where the engine corrects scales, biases where it corrects biases. The network is left quantized.
    """
    for name in names if network.corrects_bias or network.corrects_scale else ():
        network.quantized()
        figures = OutputFigures(network.output_axis(name))
        for _, output in _calls(stretch, network, name, parts, exact=False):
            figures.update(output)
        reached = figures.result()
        if len(reached[0]) == len(wanted[name][0]) > 0:
            network.adopt({name: network.matched(name, wanted[name], reached)}, {})
    network.quantized()


def _round(stretch: Stretch, network: ReconstructedNetwork, name: str, wanted: Held, parts: Sequence[int]) -> None:
    """Let a layer store its weight as GPTQ rounds it, shifted by a share of what makes its float outputs `wanted`."""
    lack = Lack(network.modules[name], network.response(name), network.float_weight(name), network.output_axis(name))

    def inputs() -> Iterator[list[Tensor]]:
        for number, (x, output) in enumerate(_calls(stretch, network, name, parts, exact=False)):
            if number < len(wanted) and wanted[number].shape == output.shape:
                lack.update(x, wanted[number])
            yield [x]

    calls = len(parts) * network.calls(name)
    moments = shrunk_moments(network.modules[name], inputs(), calls, centered=network.corrects_bias)
    if moments is not None:
        shift = lack.shift(moments) if network.corrects_bias else None
        network.adopt({name: network.rounded_for(name, moments, None if shift is None else SHARE * shift)}, {})
        network.quantized()


def _calls(
    stretch: Stretch, network: ReconstructedNetwork, name: str, parts: Sequence[int], *, exact: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the input and the output of every call of a layer, part by part: the input as the layer computes with it."""
    seen: list[tuple[Tensor, Tensor]] = []
    stop = network.calls(name) == 1

    def take(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: Tensor) -> None:
        seen.append((first_input(args, kwargs), output.clone()))  # activations may write into it
        if stop:
            raise SeenError

    sources = stretch.exact if exact else stretch.quantized
    for index in parts:
        handle = network.modules[name].register_forward_hook(take, with_kwargs=True)
        try:
            with torch.no_grad(), suppress(SeenError):
                stretch.forward(index, None if sources is None else sources[index])
        finally:
            handle.remove()
        yield from seen
        seen.clear()
