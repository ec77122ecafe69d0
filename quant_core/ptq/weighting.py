"""What the inputs of a layer weigh: the importance of every weight for clippings whose text form says `weighted`.

With M the second moments of the input patches the expected squared error of the output is d M d of the weight error d, and its part on the
diagonal is the sum of d_k^2 M_kk. A clipping that multiplies squared errors by M_kk makes that part least, where the plain one takes all
inputs for alike (llama.cpp's importance matrix, https://github.com/ggml-org/llama.cpp/pull/4861, weights errors so).
"""

from typing import Any

import torch
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode
from quant_core.network.moments import InputMoments
from quant_core.network.patches import weight_from_rows, weight_rows
from quant_core.ptq.corrections import rescaled, row_sums
from quant_core.spec.quant_spec import QuantSpec

FLOOR = 1e-4
"""Of the mean importance of a group: inputs that are constant in the calibration data count that much."""


def importance(module: Any, moments: InputMoments) -> Tensor:
    """Return diag M at every weight, in the shape of the module's weight, float32, of mean 1; 1 where all inputs are constant."""
    rows = weight_rows(module, module.weight)
    diagonal = moments.diagonal().to(torch.float32)
    if not bool((diagonal > 0).any()):
        diagonal = torch.ones_like(diagonal)
    relative = diagonal / diagonal.mean()
    mean = relative.mean(dim=1, keepdim=True)
    relative = torch.maximum(relative, FLOOR * torch.where(mean > 0, mean, torch.ones_like(mean)))
    return weight_from_rows(module, relative[:, None, :].expand(rows.shape))


def refitted(encoded: Encoded, spec: QuantSpec, module: Any, weight: Tensor, channel_axis: int, moments: InputMoments) -> Encoded:
    """Return `encoded` with its float scales times the factor that makes (g q - w) M (g q - w) least: g = w M q / q M q.

    The factor is one per channel, or one for the tensor, as the scales are; formats without a float scale are returned as they are.
    """
    decoded = decode(encoded, spec, tuple(weight.shape), channel_axis=channel_axis)
    wanted, values = weight_rows(module, weight.float()), weight_rows(module, decoded)
    products = moments.times(values)
    cross, square = (row_sums(module, (products * other).sum(dim=2)) for other in (wanted, values))
    return rescaled(encoded, spec, cross, square)
