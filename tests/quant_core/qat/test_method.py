"""Every method is described, and covers the specs that it is for."""

import pytest
import torch

from quant_core.qat import QAT_METHODS
from quant_core.qat.prepare import method_named
from quant_core.spec.formats import FORMATS
from quant_core.spec.quant_spec import QuantSpec, parse
from tests.quant_core.qat.method_cases import SPECS, seen


@pytest.mark.parametrize("name", QAT_METHODS)
def test_every_method_is_described_and_covers_some_format(name: str) -> None:
    method = method_named(name)
    assert method.about
    specs = [parse(text) for text in SPECS] + [parse("ternary:ttq")]
    assert any(method.covers_weight(spec) or method.covers_input(spec, seen(torch.ones(2))) for spec in specs)


def test_formats_have_examples() -> None:
    assert {parse(text).format for text in SPECS} == set(FORMATS)


def test_specs_out_of_reach_are_left_to_ste() -> None:
    refused: list[tuple[str, QuantSpec]] = [
        ("lsq", parse("int4:channel:affine")),
        ("lsq", parse("int4:vector16")),
        ("dorefa", parse("int4:group32")),
        ("ttq", parse("ternary:twn")),
        ("mad", parse("mxfp4")),
    ]
    assert not any(method_named(name).covers_weight(spec) for name, spec in refused)
