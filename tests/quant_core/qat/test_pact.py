"""PACT: the gradients of equation 3, and where the clip starts."""

import pytest
import torch

from quant_core.ptq.activation import ActivationQuantizer
from quant_core.qat import pact
from quant_core.qat.functions import learned_clip
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw, gradients, seen


def test_pact_has_the_gradients_of_equation_3() -> None:
    x, clip = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0]), torch.tensor(2.0)
    for layout in (lambda x: x, lambda x: torch.stack([x, x], dim=-1)[:, 0]):
        value, (dx, da) = gradients(lambda x, a, lay=layout: learned_clip(lay(x), a, 3), torch.ones(5), x, clip)
        assert value.tolist() == pytest.approx([0, 0, 4 / 3, 2, 2])  # 1 is half-way between two levels: ties to even
        assert dx.tolist() == [0, 1, 1, 0, 0]
        assert float(da) == 2


def test_pact_starts_at_the_calibrated_range_and_decays() -> None:
    x = draw(400).abs()
    quantizer = pact.ClipInput(parse("int4:tensor"), seen(x))
    assert float(quantizer.clip.detach()) == pytest.approx(float(x.max()))
    assert quantizer.decays
    assert torch.equal(quantizer(x), ActivationQuantizer(parse("int4:tensor"), seen(x))(x))
    assert not pact.METHOD.covers_input(parse("int4:tensor"), seen(-x))
