"""Compiles the loops of the formats for weights in float32: `python -m tests.compiled`.

In a fresh checkout every process that comes to a loop before it is in numba's cache compiles it, for seconds. One process does it for
all, while the others collect their tests.
"""

import torch

from quant_core.codecs.quantize import fake_quantize
from tests.quant_core.codecs.quantize_cases import all_specs

if __name__ == "__main__":
    weight = torch.linspace(-1.0, 1.0, 512).reshape(8, 64)
    for spec in all_specs():
        fake_quantize(weight, spec, channel_axis=0, generator=torch.Generator().manual_seed(0))
