"""The arithmetic of one layer, as plain data: what cost models and searchers need to know of a network."""

import math
from dataclasses import dataclass

KINDS = ("linear", "conv", "depthwise", "conv_transpose", "embedding")


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantizable layer of a network. All counts are for ONE example (batch of 1).

    Attributes:
        name: qualified module name; of a shared module, the first name.
        kind: one of `KINDS`; `depthwise` is a convolution with one input channel per group.
        weight_shape: shape of the weight tensor as torch holds it.
        channel_axis: axis of the weight that runs over output channels (1 for transposed convolutions and transformers' Conv1D).
        kernel, stride, dilation: per spatial dimension; empty for linear and embedding layers.
        in_size, out_size: spatial size of input and output; a linear layer has one entry, its number of rows (tokens).
        macs: multiply-accumulates of all calls in one forward pass.
        calls: how often one forward pass runs the layer; 0 for a layer that is never called.
        live_elements: elements of other activations alive while the layer runs (residual branches).
        tied_to: name of the earlier layer that holds the very same weight (tied embeddings), or "". Its bytes count once, there.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    weight_shape: tuple[int, ...]
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    macs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    channel_axis: int = 0
    bias: bool = False
    calls: int = 1
    live_elements: int = 0
    tied_to: str = ""

    @property
    def weights(self) -> int:
        """Elements of the weight tensor."""
        return math.prod(self.weight_shape)

    @property
    def in_elements(self) -> int:
        """Elements of the input activation of one call."""
        return self.in_channels * math.prod(self.in_size)

    @property
    def out_elements(self) -> int:
        """Elements of the output activation of one call."""
        return self.out_channels * math.prod(self.out_size)
