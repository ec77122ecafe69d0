"""Conformance of every number format: shapes, dtypes, finite results, packing, bad input, compiled loops."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_core.codecs import codec
from quant_core.codecs.packing import pack, pack_encoded, unpack
from quant_core.codecs.quantize import decode, encode, fake_quantize
from quant_core.spec.quant_spec import QuantSpec, make, parse
from quant_core.util.errors import InputError


def _cases() -> ModuleType:
    module_spec = importlib.util.spec_from_file_location("quantize_cases", Path(__file__).with_name("quantize_cases.py"))
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


CASES = _cases()
SPECS: list[QuantSpec] = CASES.all_specs()
TENSORS: dict[str, torch.Tensor] = CASES.nasty_tensors()


def bits_of(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def check(x: torch.Tensor, spec: QuantSpec, axis: int = 0) -> None:
    y = fake_quantize(x, spec, channel_axis=axis, generator=seeded())
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert bool(torch.isfinite(y).all()), f"{spec}: not finite"
    encoded = encode(x, spec, channel_axis=axis, generator=seeded())
    data = pack_encoded(encoded, spec)
    assert len(data) == -(-spec.storage_bits(tuple(x.shape), axis) // 8), spec
    back = unpack(data, spec, tuple(x.shape), channel_axis=axis, dtype=x.dtype)
    assert torch.equal(bits_of(back), bits_of(y)), f"{spec}: unpacked differs"
    again = decode(encoded, spec, tuple(x.shape), channel_axis=axis, dtype=x.dtype)
    assert torch.equal(bits_of(again), bits_of(y)), f"{spec}: encoded differs"
    if not spec.is_float:
        assert int(encoded.codes.min()) >= 0
        assert int(encoded.codes.max()) < 2**spec.bits


def test_the_table_covers_every_format_granularity_and_clipping() -> None:
    assert len(SPECS) > 300
    assert {spec.clipping for spec in SPECS} == {"minmax", "ema", "percentile", "kl", "mse", "octav", "twn", "ttq", "opt"}


@pytest.mark.parametrize("name", ["normal", "zero channel", "extremes", "half"])
@pytest.mark.parametrize("part", range(8))
def test_every_spec_is_finite_and_packs_to_its_exact_size(name: str, part: int) -> None:
    for spec in SPECS[part::8]:
        check(TENSORS[name], spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TENSORS) - {"normal", "zero channel", "extremes", "half"}))
def test_every_spec_on_every_edge(name: str) -> None:
    for spec in SPECS:
        check(TENSORS[name], spec)


@pytest.mark.parametrize("name", sorted(TENSORS))
@pytest.mark.parametrize(
    "text", ["int4:channel", "int4:group16:mse", "int4:vector16", "mx6", "mxfp4", "nvfp4", "kmeans2:tensor", "ternary"]
)
def test_usual_specs_on_every_edge(text: str, name: str) -> None:
    check(TENSORS[name], parse(text))


@settings(max_examples=120, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    x=arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    axis=st.integers(0, 1),
)
def test_any_finite_matrix_under_any_spec(spec: QuantSpec, x: np.ndarray, axis: int) -> None:
    check(torch.from_numpy(x), spec, axis)


@pytest.mark.parametrize("spec", [*SPECS[::7], make("float")], ids=str)
def test_zeros_stay_zero(spec: QuantSpec) -> None:
    y = fake_quantize(torch.zeros(3, 20), spec, generator=seeded())
    assert not y.any() or spec.granularity == "none"


@pytest.mark.parametrize("spec", SPECS[::5], ids=str)
def test_nan_and_infinity_are_refused(spec: QuantSpec) -> None:
    for bad, message in ((float("nan"), "1 NaN and 0 infinite of 40"), (float("inf"), "0 NaN and 1 infinite")):
        x = torch.ones(2, 20)
        x[1, 3] = bad
        with pytest.raises(InputError, match=message):
            fake_quantize(x, spec)
        with pytest.raises(InputError, match=message):
            pack(x, spec)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty_tensors_come_back_empty(shape: tuple[int, ...]) -> None:
    for spec in SPECS[::11]:
        assert fake_quantize(torch.empty(shape), spec).shape == shape
        assert pack(torch.empty(shape), spec) == b""
        assert unpack(b"", spec, shape).shape == shape
    with pytest.raises(InputError, match="nothing to encode"):
        encode(torch.empty(shape), "mx6")


def test_the_channel_axis_is_the_row() -> None:
    x = torch.randn(4, 6, 3, 3, generator=seeded())
    for text in ("int4:channel", "int3:group5", "mxfp4", "kmeans2:channel", "ternary:channel"):
        by_axis = fake_quantize(x, text, channel_axis=1)
        assert torch.equal(by_axis, fake_quantize(x.movedim(1, 0).contiguous(), text).movedim(0, 1))
        assert torch.equal(by_axis, fake_quantize(x, text, channel_axis=-3))
        assert torch.equal(by_axis, unpack(pack(x, text, channel_axis=1), text, (4, 6, 3, 3), channel_axis=1))


def test_out_is_written_and_may_be_the_input() -> None:
    for spec in SPECS[::6]:
        for shape, axis in (((6, 40), 0), ((6, 40), 1), ((3, 2, 7), 0)):
            x = torch.randn(shape, generator=seeded())
            wanted = fake_quantize(x, spec, channel_axis=axis, generator=seeded())
            out = torch.full_like(x, torch.nan)
            assert fake_quantize(x, spec, channel_axis=axis, generator=seeded(), out=out).data_ptr() == out.data_ptr()
            assert torch.equal(out, wanted), spec
            assert torch.equal(fake_quantize(x, spec, channel_axis=axis, generator=seeded(), out=x), wanted), spec
    strided = torch.zeros(6, 80)[:, ::2]
    fake_quantize(torch.ones(6, 40), "mx9", out=strided)
    assert torch.equal(strided, torch.ones(6, 40))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r"torch.int64 given; a floating-point"):
        fake_quantize(torch.ones(3, dtype=torch.int64), "int8")
    with pytest.raises(InputError, match="channel axis 2 given"):
        fake_quantize(torch.ones(3, 3), "int8:channel", channel_axis=2)
    with pytest.raises(InputError, match="out is"):
        fake_quantize(torch.ones(3, 3), "int8", out=torch.ones(3))
    with pytest.raises(InputError, match="bounds of 2 values given for int8:channel; 3 scale blocks"):
        fake_quantize(torch.ones(3, 3), "int8:channel", bounds=(torch.zeros(2), torch.ones(2)))
    with pytest.raises(InputError, match="lo > hi"):
        fake_quantize(torch.ones(3, 3), "int8", bounds=(torch.tensor(1.0), torch.tensor(-1.0)))
    with pytest.raises(InputError, match="bounds given for mx6"):
        fake_quantize(torch.ones(3, 3), "mx6", bounds=(torch.tensor(-1.0), torch.tensor(1.0)))
    with pytest.raises(InputError, match="not finite"):
        fake_quantize(torch.ones(3, 3), "int8", bounds=(torch.tensor(0.0), torch.tensor(torch.inf)))


# ------------------------------------------------------------------------------------------------- compiled loops


def wild_matrix(columns: int) -> torch.Tensor:
    """Random finite bit patterns, ordinary rows, rows far up and down the exponents, signed zeros."""
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(-(2**31), 2**31 - 1, (40, columns), generator=generator).to(torch.int32).view(torch.float32)
    normal = torch.randn(60, columns, generator=generator) * torch.logspace(-44, 38, 60, dtype=torch.float64).unsqueeze(1)
    normal[::7, ::5] = -0.0
    below_power = torch.nextafter(2.0 ** torch.randint(-20, 20, (10, columns), generator=generator).float(), torch.zeros(()))
    return torch.cat([bits.nan_to_num(1.0, -1.0, 2.0), normal.clamp(-3.4e38, 3.4e38).float(), below_power])


@pytest.mark.parametrize("columns", [64, 144, 37, 1])
@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if spec.rounding == "nearest" and spec.clipping in ("minmax", "twn", "ttq")][::3], ids=str
)
def test_compiled_loops_give_the_bits_of_the_eager_code(spec: QuantSpec, columns: int) -> None:
    x = wild_matrix(columns)
    form = codec(spec)
    assert torch.equal(bits_of(fake_quantize(x, spec)), bits_of(form.decode(form.encode(x, spec, None, None), spec)))


LOOPS = [
    "int4:affine",
    "int4:channel:affine",
    "int8:group16:affine",
    "int3:group5:affine:fp32",
    "int16:token:affine",
    "int1:channel:affine",
]
LOOPS += ["binary:channel", "binary:tensor", "binary:none", "ternary", "ternary:ttq", "ternary:channel", "ternary:channel:ttq"]
LOOPS += ["kmeans1:channel", "kmeans3:group2", "kmeans4:tensor", "kmeans5:channel", "kmeans8:tensor"]


@pytest.mark.parametrize("text", LOOPS)
def test_loops_that_measure_and_write_give_the_bits_of_the_eager_code(text: str) -> None:
    spec = parse(text)
    form = codec(spec)
    for columns in (1, 15, 33, 300):
        normal = torch.randn(5, columns, generator=seeded())
        subnormal = torch.where(torch.arange(columns) % 3 == 0, -1e-45, 0.0).expand(2, columns).contiguous()
        for x in (wild_matrix(columns), normal, -normal.abs(), torch.zeros(2, columns), torch.full((2, columns), -3.4e38), subnormal):
            assert torch.equal(bits_of(fake_quantize(x, spec)), bits_of(form.decode(form.encode(x, spec, None, None), spec)))


@pytest.mark.parametrize(
    "text", [*LOOPS[::3], "int4:tensor", "int8:channel", "int4:vector16", "mx6", "mxfp4", "mxint8", "nvfp4", "ternary"]
)
def test_two_threads_give_the_bits_of_one(text: str) -> None:
    threads = torch.get_num_threads()
    try:
        for shape in ((1, 2**19), (300, 1024), (1, 2**19 + 16 * 37)):
            x = torch.randn(shape, generator=seeded())
            torch.set_num_threads(1)
            alone = fake_quantize(x, text)
            torch.set_num_threads(2)
            assert torch.equal(bits_of(fake_quantize(x, text)), bits_of(alone))
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------- ranges and scales


def test_bounds_replace_the_clipping_and_unsigned_follows_from_them() -> None:
    x = torch.linspace(-1, 4, 101).reshape(1, -1)
    signed = fake_quantize(x, "int4", bounds=(torch.tensor(-2.0), torch.tensor(2.0)))
    assert torch.equal(signed, torch.fake_quantize_per_tensor_affine(x, 2 / 7, 0, -8, 7))
    unsigned = fake_quantize(x, "int4", bounds=(torch.tensor(0.0), torch.tensor(3.0)))
    assert torch.equal(unsigned, torch.fake_quantize_per_tensor_affine(x, 3 / 15, 0, 0, 15))
    with pytest.raises(InputError, match="unsigned"):
        pack(x, "int4", bounds=(torch.tensor(0.0), torch.tensor(3.0)))
    per_group = fake_quantize(x, "int4:group50:fp32", bounds=(-torch.ones(3), torch.tensor([1.0, 2.0, 4.0])))
    assert float(per_group[0, 49]) <= 8 / 7
    assert float(per_group[0, 100]) == 4.0
    levels = fake_quantize(x, "ternary:ttq", bounds=(torch.tensor(-0.5), torch.tensor(2.5)))
    assert set(levels.unique().tolist()) == {-0.5, 0.0, 2.5}


def test_the_short_last_group_has_its_own_scale() -> None:
    x = torch.cat([torch.full((1, 4), 100.0), torch.tensor([[0.5, 0.25]])], dim=1)
    y = fake_quantize(x, "int8:group4:fp32")
    assert float((y - x)[0, 4:].abs().max()) < 0.5 / 127


def test_token_scales_run_along_the_last_axis() -> None:
    x = torch.randn(2, 5, 12, generator=seeded()) * torch.arange(1, 11).reshape(2, 5, 1)
    assert torch.equal(fake_quantize(x, "int8:token"), fake_quantize(x.reshape(10, 12), "int8:channel").reshape(2, 5, 12))


def test_stochastic_rounding_has_the_right_mean_and_keeps_integers() -> None:
    x = torch.full((1, 100_000), 0.3)
    x[0, 0] = 1.0
    y = fake_quantize(x, "int2:tensor:stochastic", generator=seeded())
    deviation = (0.3 * 0.7 / 100_000) ** 0.5
    assert abs(float(y[0, 1:].mean()) - 0.3) < 5 * deviation
    whole = torch.arange(-7.0, 8.0).reshape(1, -1)
    assert torch.equal(fake_quantize(whole, "int4:tensor:stochastic", generator=seeded()), whole)
    assert torch.equal(y, fake_quantize(x, "int2:tensor:stochastic", generator=seeded()))
