"""Reconstruct a network block by block: learn a block, compare it with its start, keep the better, go on with its outputs."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs.qparams import QParams
from quant_core.network.blocks import Block, BlockError, BlockRunner, WholeNetwork
from quant_core.network.cutting import cut
from quant_core.network.faithful import fold_faithfully
from quant_core.network.parameters import own_modules
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct import PART, ReconstructConfig
from quant_core.reconstruct.begin import begin, float_figures, match
from quant_core.reconstruct.gradients import Direction, squared_gradients
from quant_core.reconstruct.held import Held, Room
from quant_core.reconstruct.inputs import LearnedInput
from quant_core.reconstruct.learn import Stretch, deviations, learn, learning
from quant_core.reconstruct.results import BlockReport, Progress, Reconstructed, starting_policy
from quant_core.reconstruct.rounding import FixedWeight, LearnedWeight, SoftWeight
from quant_core.reconstruct.single import captured
from quant_core.reconstruct.state import ReconstructedNetwork
from quant_core.reconstruct.whole import Distance, Whole, finish
from quant_core.spec.policy import Policy
from quant_core.util.errors import InputError
from quant_core.util.text import listed

SEEDS = 1_000_003
"""The seed of a block is that of the configuration times this, and its number."""
logger = logging.getLogger(__name__)


def reconstruct(
    engine: PostTraining,
    network: nn.Module,
    policy: Policy,
    batches: Iterable[Any],
    config: ReconstructConfig,
    *,
    direction: Direction | None = None,
    distance: Distance | None = None,
    room_bytes: int = 2**28,
    progress: Progress | None = None,
    report: Callable[[Progress, int], None] = lambda _progress, _count: None,
) -> Reconstructed:
    """Return `network` quantized by `policy`, its blocks reconstructed one after the other.

    A block learns on inputs that the quantized layers before it give, for the output of the float network (BRECQ, section 3.2). Every
    weight is learned between two neighbouring values of its grid (AdaRound, equations 21 to 24), starting at GPTQ's for these inputs
    (`quant_core.reconstruct.begin`); a factor per float scale, the bias, and the steps of symmetric static inputs are learned with it.
    Then outputs get the mean and deviation of the float network's. What is learned is kept where the error of the block on the examples
    that judge (`quant_core.reconstruct.learn.judging`), rounded and with nothing left out, is below the start's. Until then the start, and
    means and deviations, are those of the other examples, afterwards of all. At last scales, biases and input steps of all layers are
    learned together for the network's outputs (`quant_core.reconstruct.whole`), and kept by the same rule.

    Embeddings, tied weights and weights that another module reads keep the start's rounding. Where the network cannot be cut into blocks
    every layer is learned alone (`Reconstructed.note` says why), with plain squared errors. Passes over the examples: one or two at the
    start, then per block one of the float and at most three of the quantized block, four (eight where examples judge apart) per layer up to
    that layer, and six at the end. At most four sets of inputs and outputs of one block, or three and the outputs of one layer, are held,
    and the squared gradients of all block outputs in 16 bits; what exceeds `room_bytes` lies in temporary files.

    Args:
        engine: made of `network`; left in float.
        network: float; it is not touched.
        policy: for every layer.
        batches: calibration inputs.
        config: how.
        direction: outputs, generator -> random v of their shape, E[v v'] the curvature of the loss there; needed for loss = "fisher".
        distance: outputs, those of the float network -> how far they are apart, a mean with a gradient; needed for the last stage.
        room_bytes: of memory for inputs and outputs.
        progress: of an earlier call, to go on from; it is changed.
        report: called with the progress after every block, and at the start, with how many there are.

    Raises:
        InputError: loss = "fisher" without `direction`, or no batch.
        OSError: the disk of temporary files is full.
    """
    parts = cut(list(batches), PART)
    if not parts:
        raise InputError("the calibration split is empty; give at least one batch.")
    if config.loss == "fisher" and direction is None:
        raise InputError("loss = 'fisher' given without direction; give it, or loss = 'mse'.")
    with torch.inference_mode(mode=False), torch.enable_grad():
        work = _Work(engine, network, policy, parts, config, Room(room_bytes), progress or Progress(), report)
        return work.all(direction, distance)


class _Work:
    """One reconstruction."""

    def __init__(
        self,
        engine: PostTraining,
        network: nn.Module,
        policy: Policy,
        parts: Sequence[Any],
        config: ReconstructConfig,
        room: Room,
        progress: Progress,
        report: Callable[[Progress, int], None],
    ) -> None:
        self._parts, self._config, self._room, self._progress, self._report = parts, config, room, progress, report
        start = starting_policy(policy)
        self._network = ReconstructedNetwork(fold_faithfully(network, parts[0]).requires_grad_(False), engine, start)
        self._network.adopt(progress.weights, progress.grids)
        self._left = -len(progress.blocks)  # 0 or more: not made before
        self._runner, self._note = self._cut()

    def all(self, direction: Direction | None, distance: Distance | None) -> Reconstructed:
        """Go through all blocks."""
        blocks, network = self._runner.blocks, self._network
        gradients: Sequence[Held | None] = [None] * len(blocks)
        if self._config.loss == "fisher" and direction is not None and isinstance(self._runner, BlockRunner):
            gradients = squared_gradients(self._runner, self._parts, direction, self._config.seed, self._room)
        self._report(self._progress, len(blocks))
        exact: Held | None = None
        quantized: Held | None = None
        for block, weights in zip(blocks, gradients, strict=True):
            network.in_float()
            wanted = self._outputs(block, exact)
            if block.cut:
                self._joint(block, Stretch(self._forward(block), exact, quantized, wanted, weights))
            else:
                self._one_by_one(block, exact, quantized)
            network.quantized()
            outputs = self._outputs(block, quantized)
            for held in (exact, quantized, weights):
                if held is not None:
                    held.close()
            exact, quantized = wanted, outputs
            self._report(self._progress, len(blocks))
        if distance is not None and exact is not None and self._config.whole:
            self._whole(Whole(self._runner, self._parts, exact, distance))
        inputs = {name: learned.quantizer for name, learned in network.inputs.items()}
        done = self._progress
        return Reconstructed(network.quantized(), network.start, network.weights, inputs, tuple(done.blocks), done.whole, self._note)

    def _cut(self) -> tuple[BlockRunner | WholeNetwork, str]:
        """Return the runner of the blocks, and why they are not cut, or ""."""
        model = self._network.in_float()
        watched = own_modules(model, self._network.layers)
        try:
            runner = BlockRunner(model, watched, self._parts[0], self._config.joined)
            for inputs in self._parts:
                runner.require_same(inputs)
            return runner, ""
        except BlockError as error:
            note = f"the network cannot be cut into blocks ({error}): every layer is reconstructed alone"
            logger.warning("reconstruct: %s", note)
            return WholeNetwork(model, tuple(watched)), note

    def _joint(self, block: Block, stretch: Stretch) -> None:
        """Learn the layers of a block together."""
        names = self._network.learnable(block.layers)
        if names and not self._is_done():
            self._learn(names, stretch, cut=True)

    def _one_by_one(self, block: Block, exact: Held | None, quantized: Held | None) -> None:
        """Learn the layers of a stretch that is not cut, every one for its own output."""
        network, forward, count = self._network, self._forward(block), len(self._parts)
        for name in network.learnable(block.layers):
            if self._is_done():
                continue
            module = network.modules[name]
            network.in_float()
            before, wanted = captured(forward, exact, count, module, self._room)
            network.quantized()
            after, outputs = captured(forward, quantized, count, module, self._room)
            outputs.close()
            if len(before) == len(after) == len(wanted) > 0:
                self._learn((name,), Stretch(_alone(module), before, after, wanted), cut=False)
            else:
                self._progress.blocks.append(BlockReport((), 0.0, 0.0, cut=False))
            for held in (before, wanted, after):
                held.close()
            self._report(self._progress, len(self._runner.blocks))

    def _learn(self, names: tuple[str, ...], stretch: Stretch, *, cut: bool) -> None:
        """Learn layers, and keep what is better: their start or what was learned."""
        network, progress, number = self._network, self._progress, len(self._progress.blocks)
        everything, learned = range(len(stretch.wanted)), learning(len(stretch.wanted))
        wanted = begin(stretch, network, names, self._room, learned)
        start = end = stretch.measure()
        if 0 < start < math.inf:
            before = {name: network.weights[name] for name in names}, network.grids(names)
            soft = network.soft(names, deviations(stretch.first, network, names))
            inputs = {name: network.inputs[name] for name in names if name in network.inputs}
            learn(stretch, soft, inputs, network, self._config, self._config.seed * SEEDS + number, start)
            end = self._better(soft, inputs, before, start, stretch.measure, partial(match, stretch, network, names, wanted, learned))
        if len(learned) < len(everything) and end < start:
            match(stretch, network, names, float_figures(stretch, network, names, everything), everything)
        elif len(learned) < len(everything):
            begin(stretch, network, names, self._room, everything)
        progress.blocks.append(BlockReport(names, start, end, cut))
        progress.weights |= {name: network.weights[name] for name in names}
        progress.grids |= network.grids(names)
        logger.info("reconstruct: %s, error %.4g to %.4g", listed(names), start, end)

    def _whole(self, whole: Whole) -> None:
        """Learn scales, biases and input steps of all layers together, and keep them where the network's outputs come nearer."""
        network, progress = self._network, self._progress
        names = network.learnable([name for block in whole.runner.blocks for name in block.layers])
        names += tuple(network.shared)
        if progress.whole is not None or not (names or network.inputs):
            return
        network.quantized()
        start = whole.measure()
        also = tuple(other for name in names for other in network.shared.get(name, ()))
        before = {name: network.weights[name] for name in (*names, *also)}, network.grids(tuple(network.inputs))
        fixed = network.fixed(names, deviations(partial(whole.outputs, 0), network, names))
        for learned in network.inputs.values():
            learned.restart()
        finish(whole, fixed, network.inputs, network, self._config)
        end = self._better(fixed, network.inputs, before, start, whole.measure)
        progress.whole = BlockReport(names, start, end, isinstance(whole.runner, BlockRunner))
        progress.weights |= {name: network.weights[name] for name in (*names, *also)}
        progress.grids |= network.grids(tuple(network.inputs))
        self._report(progress, len(whole.runner.blocks))
        logger.info("reconstruct: the whole network, divergence %.4g to %.4g", start, end)

    def _better(
        self,
        weights: Mapping[str, SoftWeight | FixedWeight],
        inputs: Mapping[str, LearnedInput],
        before: tuple[Mapping[str, LearnedWeight], Mapping[str, QParams]],
        start: float,
        measure: Callable[[], float],
        mend: Callable[[], None] = lambda: None,
    ) -> float:
        """Let layers store what was learned, or, where its error is not below the start's, what they had; return the error of the two."""
        network = self._network
        grids = {name: grid for name, learned in inputs.items() if (grid := learned.learned()) is not None}
        stored = {name: weight.hardened() for name, weight in weights.items()}
        stored |= {other: LearnedWeight(stored[name].encoded, None) for name in stored for other in network.shared.get(name, ())}
        network.adopt(stored, grids)
        mend()
        network.quantized()
        end = measure()
        if end < start:
            return end
        network.adopt(*before)
        network.quantized()
        return start

    def _is_done(self) -> bool:
        """Tell whether the next reconstruction was made before, and count it."""
        self._left += 1
        return self._left <= 0

    def _forward(self, block: Block) -> Callable[[int, Tensor | None], Tensor]:
        return lambda index, before: self._runner.run(block, self._parts[index], before)

    def _outputs(self, block: Block, sources: Held | None) -> Held:
        """Return the outputs of a block as the network now computes; one pass."""
        outputs = Held(self._room)
        with torch.no_grad():
            for index in range(len(self._parts)):
                outputs.add(self._forward(block)(index, None if sources is None else sources[index]))
        return outputs


def _alone(module: nn.Module) -> Callable[[int, Tensor | None], Tensor]:
    def forward(_index: int, x: Tensor | None) -> Tensor:
        output: Tensor = module(x)
        return output

    return forward
