"""The blocks of a network: stretches of its forward pass with one tensor at either end, residual sums closed inside.

A tensor that depends on no layer (a mask, positions, the inputs themselves) is the same however layers are quantized, so it may cross a
cut; it is computed again where it is needed.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from quant_core.network.forward import forward, placed_inputs
from quant_core.network.tape import Node, Tape, record_tape, run

JOINED = 4
"""Layers of a block up to which neighbouring blocks are joined."""
LARGEST = 12
"""Layers beyond which a stretch counts as one that cannot be cut."""


@dataclass(frozen=True)
class Block:
    """A stretch of the forward pass.

    Attributes:
        layers: watched modules that it calls, in order; one that an earlier block calls too is not among them.
        first, last: of its calls, in the order of all calls of watched modules; `last` is one beyond.
        cut: whether it has at most `LARGEST` layers: a longer stretch is one that cannot be cut.
    """

    layers: tuple[str, ...]
    first: int
    last: int
    cut: bool = True


class BlockError(Exception):
    """The network cannot be run block by block; the message says why."""


class BlockRunner:
    """Runs the blocks of a network one by one, each on the output of the one before.

    Sizes in a tape are those of its batch: there is one tape per shape of batch, all with the same cuts.

    Attributes:
        blocks: in order; together they hold all layers that are called.

    Args:
        model: in eval mode.
        watched: name -> module of its layers.
        example: one batch, of a shape that will come.
        joined: layers up to which neighbouring blocks are joined.

    Raises:
        BlockError: the network cannot be run so.
    """

    def __init__(self, model: nn.Module, watched: Mapping[str, nn.Module], example: Any, joined: int = JOINED) -> None:
        self._model, self._watched = model, watched
        self._tapes: dict[Any, _Cuts] = {}
        cuts = self._recorded(example)
        self._calls = cuts.calls
        self.blocks = _blocks(cuts, joined)

    def run(self, block: Block, inputs: Any, before: Tensor | None) -> Tensor:
        """Return the output of a block.

        Args:
            block: of `blocks`.
            inputs: a batch of model inputs.
            before: the output of the block before it for this batch; None for the first block. It is not written to.

        Raises:
            BlockError: a batch of this shape is run in another order.
        """
        cuts = self._cuts(inputs)
        return cuts.run(block.first, block.last, placed_inputs(self._model, inputs), before)

    def require_same(self, inputs: Any) -> None:
        """Compare the blocks, one after the other, with the network.

        Raises:
            BlockError: they give another output, or none.
        """
        before: Tensor | None = None
        with torch.no_grad():
            expected = forward(self._model, inputs)
            try:
                for block in self.blocks:
                    before = self.run(block, inputs, before)
            except (RuntimeError, TypeError, ValueError, LookupError) as error:
                raise BlockError(f"its calls cannot be run again: {type(error).__name__}") from error
        assert before is not None
        scale = float(expected.abs().amax()) if expected.numel() else 0.0
        if before.shape != expected.shape or not torch.allclose(before, expected, rtol=0.0, atol=1e-4 * scale):
            raise BlockError("its outputs depend on more than the calls that were recorded")

    def _cuts(self, inputs: Any) -> "_Cuts":
        key = (tree_structure(inputs), tuple(tuple(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)))
        if key not in self._tapes:
            self._tapes[key] = self._recorded(inputs)
        cuts = self._tapes[key]
        if cuts.calls != self._calls or not all(cuts.at[block.first] >= 0 for block in self.blocks):
            raise BlockError("batches of other shapes call its layers in another order")
        return cuts

    def _recorded(self, inputs: Any) -> "_Cuts":
        try:
            return _Cuts(record_tape(self._model, self._watched, inputs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise BlockError(str(error).partition("\n")[0]) from error


class WholeNetwork:
    """A network that cannot be cut, as one stretch, where `BlockRunner` does not run it."""

    def __init__(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        self._model = model
        self.blocks = (Block(layers, 0, 0, cut=False),)

    def run(self, _block: Block, inputs: Any, _before: Tensor | None) -> Tensor:
        """Return the output of the network."""
        return forward(self._model, inputs)


class _Cuts:
    """Where a tape can be cut, and what is run of it.

    Attributes:
        calls: the watched modules that are called, in order.
        at: for every call, the position of the last cut before it that comes after the call before; -1: there is none.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape, self._nodes = tape, _needed(tape)
        self._after_layer = _first_after_layers(self._nodes)
        self.calls = [node.module for node in self._nodes if node.module]
        if not self.calls:
            raise BlockError("no layer is called")
        crossing = self._crossing()
        places = [position for position, node in enumerate(self._nodes) if node.module]
        self.at = [0]
        for before, place in itertools.pairwise(places):
            self.at.append(next((p for p in range(place, before, -1) if crossing[p] >= 0), -1))
        self.at.append(len(self._nodes))
        self._enters = {position: number for position, number in enumerate(crossing) if number >= 0}
        self._beside: dict[tuple[int, int], Sequence[Node]] = {}

    def run(self, first: int, last: int, inputs: Any, before: Tensor | None) -> Tensor:
        """Return the tensor at the cut before call `last`, from the one at the cut before call `first`."""
        start, end = self.at[first], self.at[last]
        values = self._tape.bound(inputs)
        run(self._beside_nodes(start, end), values)
        nodes = self._nodes[start:end]
        if before is not None:
            values[self._enters[start]] = before.clone() if any(node.in_place for node in nodes) else before
        run(nodes, values)
        output: Tensor = values[self._enters[end]]
        return output

    def _crossing(self) -> list[int]:
        """Return for every position between calls the one tensor after layers that crosses it; -1 where more do, or none."""
        count = len(self._nodes)
        last_use = {self._tape.output: count}
        for position, node in enumerate(self._nodes):
            for number in node.reads:
                last_use[number] = max(last_use.get(number, 0), position)
        changes: list[list[int]] = [[] for _ in range(count + 2)]
        for number, born in self._after_layer.items():
            if last_use.get(number, -1) > born:
                changes[born + 1].append(number)
                changes[last_use[number] + 1].append(~number)
        alive: set[int] = set()
        crossing = []
        for position in range(count + 1):
            for number in changes[position]:
                alive.add(number) if number >= 0 else alive.discard(~number)
            crossing.append(next(iter(alive)) if len(alive) == 1 else -1)
        return crossing

    def _beside_nodes(self, start: int, end: int) -> Sequence[Node]:
        """Return the calls before a stretch that give what it reads beside its input: nothing that comes after a layer."""
        if (start, end) not in self._beside:
            needed = {number for node in self._nodes[start:end] for number in node.reads}
            kept = []
            for node in reversed(self._nodes[:start]):
                if not needed.isdisjoint(node.writes) and not any(number in self._after_layer for number in node.writes):
                    kept.append(node)
                    needed.update(node.reads)
            self._beside[start, end] = kept[::-1]
        return self._beside[start, end]


def _needed(tape: Tape) -> list[Node]:
    """Return the calls that the output depends on, those that write in place among them."""
    needed, kept = {tape.output}, []
    for node in reversed(tape.nodes):
        if node.in_place or not needed.isdisjoint(node.writes):
            kept.append(node)
            needed.update(node.reads)
    return kept[::-1]


def _first_after_layers(nodes: Sequence[Node]) -> dict[int, int]:
    """Return for every tensor that depends on a layer the position of the call from which on it does."""
    after: dict[int, int] = {}
    for position, node in enumerate(nodes):
        if node.module or any(number in after for number in node.reads):
            changed = (*node.writes, *node.reads) if node.in_place and not node.module else node.writes
            for number in changed:
                after.setdefault(number, position)
    return after


def _blocks(cuts: _Cuts, joined: int) -> tuple[Block, ...]:
    """Return the stretches between cuts, neighbours joined while they have at most `joined` layers."""
    starts = [call for call in range(len(cuts.calls)) if cuts.at[call] >= 0]
    ends = [*starts[1:], len(cuts.calls)]
    blocks: list[Block] = []
    seen: set[str] = set()
    for first, last in zip(starts, ends, strict=True):
        layers = tuple(name for name in dict.fromkeys(cuts.calls[first:last]) if name not in seen)
        seen.update(layers)
        if blocks and len(blocks[-1].layers) + len(layers) <= joined:
            before = blocks.pop()
            joint = (*before.layers, *layers)
            blocks.append(Block(joint, before.first, last))
        else:
            blocks.append(Block(layers, first, last, len(layers) <= LARGEST))
    return tuple(blocks)
