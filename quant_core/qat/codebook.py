"""`codebook`: trained k-means codebooks (Deep Compression, Han et al., ICLR 2016, arXiv:1510.00149, section 3.3).

Each weight keeps the centre that k-means gave it; the centres are trained, the float weights are not.
"""

from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs.codebook import channels_per_book
from quant_core.codecs.quantize import as_rows, encode
from quant_core.qat import ste
from quant_core.qat.functions import scale_gradient
from quant_core.qat.method import Method, Stored, WeightQuantizer, no_input
from quant_core.qat.rows import from_rows
from quant_core.spec.quant_spec import QuantSpec


class CodebookWeight(WeightQuantizer):
    """The parameter `centres`, [books, 2^bits], and the fixed index of every weight into it."""

    index: Tensor

    def __init__(self, weight: Tensor, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__(spec, channel_axis)
        encoded = encode(weight, self.spec, channel_axis=channel_axis)
        assert encoded.codebook is not None
        self.centres = nn.Parameter(encoded.codebook.clone())
        self.rate = self.centres.numel() / weight.numel()
        rows, size = encoded.codes.shape[0], encoded.codebook.shape[1]
        book = torch.arange(rows, device=weight.device) // channels_per_book(self.spec, rows)
        self.register_buffer("index", encoded.codes.long() + book.unsqueeze(1) * size)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the centre of every weight."""
        arguments = (scale_gradient(self.centres, self.rate), self.index, weight, self.channel_axis, self.spec)
        quantized: Tensor = _CodebookFunction.apply(*arguments)  # type: ignore[no-untyped-call]
        return quantized

    def stored(self, weight: Tensor) -> Stored:
        """Return the quantized weight: it has no more than 2^bits values per book, which k-means finds exactly."""
        with torch.no_grad():
            return self(weight), self.spec, None


class _CodebookFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, centres: Tensor, index: Tensor, weight: Tensor, axis: int, spec: QuantSpec) -> Tensor:
        ctx.save_for_backward(index)
        ctx.axis, ctx.spec, ctx.shape = axis, spec, centres.shape
        return from_rows(centres.reshape(-1)[index], weight, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return dL/dC_k, the sum of dL/dW_ij over the weights of centre k (section 3.3)."""
        (index,) = ctx.saved_tensors
        incoming = as_rows(gradient, ctx.spec, ctx.axis).reshape(-1)
        sums = torch.zeros(ctx.shape, dtype=incoming.dtype, device=incoming.device).reshape(-1)
        return sums.index_add_(0, index.reshape(-1), incoming).reshape(ctx.shape), None, None, None, None


def _covers_weight(spec: QuantSpec) -> bool:
    return spec.format == "kmeans"


METHOD = Method(CodebookWeight, ste.activation, _covers_weight, no_input, "trained k-means codebooks (Deep Compression, ICLR 2016)")
