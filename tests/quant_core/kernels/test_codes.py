"""The compiled loops of the linear grid against torch's operations, bit for bit."""

import pytest
import torch

from quant_core.codecs import affine
from quant_core.codecs.quantize import encode
from quant_core.spec.quant_spec import parse

TEXTS = "int1:tensor int2:channel:mse int4:group32 int5:group128:affine int8:tensor:affine int8:channel int12:channel int4:vector16"
SPECS = TEXTS.split()


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 100), (7, 256), (64, 33)])
def test_codes_and_values_are_those_of_torch(text: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse(text)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3
    rows[0, 0] = 0.0
    results = []
    for loops in (True, False):
        if not loops:
            monkeypatch.setattr(affine, "_in_loops", lambda *_: False)
        encoded = encode(rows, spec)
        grid = affine.make_grid(spec, rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True), rows.shape[1])
        codes = affine.to_codes(rows, grid, spec, None)
        results.append((encoded.codes, codes, affine.to_values(codes, grid)))
    for compiled, plain in zip(*results, strict=True):
        assert compiled.dtype == plain.dtype
        assert torch.equal(compiled, plain)


def test_gradients_and_columns_that_are_not_contiguous_stay_with_torch() -> None:
    spec = parse("int4:channel")
    grid = affine.make_grid(spec, torch.full((4, 1), -1.0), torch.full((4, 1), 1.0), 6)
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).t()
    assert torch.equal(affine.to_codes(rows, grid, spec, None), affine.to_codes(rows.contiguous(), grid, spec, None))
    grid.scale.requires_grad_()
    assert affine.to_values(affine.to_codes(rows, grid, spec, None), grid).requires_grad
