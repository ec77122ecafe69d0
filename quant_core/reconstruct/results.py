"""What a reconstruction starts from, how far it is, and what it gives."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from torch import nn

from quant_core.codecs import Encoded
from quant_core.codecs.qparams import QParams
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.reconstruct.rounding import LearnedWeight
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import QuantSpec, SpecError


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What became of one block.

    Attributes:
        layers: that were learned in it.
        start, end: error under the rounding that it starts from, and the one that was kept: `end` is never the larger.
        cut: whether it is a block of the network; False: a layer alone, where the network cannot be cut.
    """

    layers: tuple[str, ...]
    start: float
    end: float
    cut: bool = True


@dataclass
class Progress:
    """The blocks that are done, and what they store.

    Attributes:
        blocks: in order.
        weights: layer -> codes, scales and bias.
        grids: layer -> the static grid of its input.
        whole: what became of the last stage, once it is done; its errors are divergences of the network's outputs.
    """

    blocks: list[BlockReport] = field(default_factory=list)
    weights: dict[str, LearnedWeight] = field(default_factory=dict)
    grids: dict[str, QParams] = field(default_factory=dict)
    whole: BlockReport | None = None

    def state(self) -> dict[str, object]:
        """Return everything as dicts and lists of tensors and plain values."""
        weights = {
            name: {part.name: getattr(stored.encoded, part.name) for part in fields(Encoded)} | {"bias": stored.bias}
            for name, stored in self.weights.items()
        }
        grids = {name: list(grid) for name, grid in self.grids.items()}
        blocks = [asdict(block) | {"layers": list(block.layers)} for block in (*self.blocks, *([self.whole] if self.whole else []))]
        return {"blocks": blocks, "weights": weights, "grids": grids, "whole": self.whole is not None}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Progress":
        """Return the progress of a `state`."""
        weights = {
            name: LearnedWeight(Encoded(**{key: value for key, value in parts.items() if key != "bias"}), parts["bias"])
            for name, parts in state["weights"].items()
        }
        blocks = [BlockReport(**(block | {"layers": tuple(block["layers"])})) for block in state["blocks"]]
        whole = blocks.pop() if state["whole"] else None
        return cls(blocks, weights, {name: QParams(*grid) for name, grid in state["grids"].items()}, whole)


@dataclass(frozen=True, eq=False)
class Reconstructed:
    """A reconstructed network.

    Attributes:
        simulation: computes with quantized weights and inputs; it cannot be copied.
        start: the policy whose weights the reconstruction started from.
        weights: layer -> what it stores, also where nothing was learned.
        inputs: layer -> the quantizer of its input.
        blocks: what became of them; empty where nothing could be learned.
        whole: what became of the last stage, in which all layers are learned together; None where there was none.
        note: why layers were learned alone, or "".
    """

    simulation: nn.Module
    start: Policy
    weights: dict[str, LearnedWeight]
    inputs: dict[str, ActivationQuantizer]
    blocks: tuple[BlockReport, ...]
    whole: BlockReport | None = None
    note: str = ""


def starting_policy(policy: Policy) -> Policy:
    """Return the policy that a reconstruction starts from: GPTQ with weighted scales where formats have them. The storage is the same."""
    return policy.with_layers({name: LayerPolicy(_gptq(layer.weight), layer.activation) for name, layer in policy.items()})


def _gptq(spec: QuantSpec) -> QuantSpec:
    for weighted in (True, spec.weighted):
        try:
            return spec if spec.is_float else replace(spec, rounding="gptq", weighted=weighted)
        except SpecError:
            continue
    return spec
