"""Rows of a profile survive their CSV form, and what is no row is refused with its place."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_models.measurements import COLUMNS, Measurement, Mode, read_measurements, shape_key, shape_only, write_measurements
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError

ROW = Measurement(
    Layer("", "conv", 8, 16, (16, 8, 3, 2), (6, 7), (4, 6), 99, (3, 2), (1, 1), (1, 1)),
    Mode("int8", "int8", "signed", "unsigned"),
    1.25e-05,
    0.031,
    10,
)
SIZES = st.lists(st.integers(1, 99), max_size=3).map(tuple)
ROWS = st.builds(
    Measurement,
    st.builds(
        Layer,
        name=st.just(""),
        kind=st.sampled_from(["linear", "conv", "embedding"]),
        in_channels=st.integers(1, 999),
        out_channels=st.integers(1, 999),
        macs=st.integers(0, 10**12),
        groups=st.integers(1, 9),
        **dict.fromkeys(("weight_shape", "kernel", "stride", "dilation", "in_size", "out_size"), SIZES),
    ),
    st.builds(Mode, st.sampled_from(["int4", "float"]), st.just("float"), st.sampled_from(["", "signed"])),
    st.floats(1e-9, 1e3),
    st.floats(0, 10),
    st.integers(3, 20),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_rows_are_read_back_as_they_were_written(tmp_path: Path, rows: list[Measurement]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(write_measurements(rows, 4))
    assert read_measurements(path, 4) == tuple(rows)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (",1.25e-05,", ",quick,", "row 1: could not convert string to float: 'quick'"),
        ("conv,", "pool,", "row 1: kind 'pool'; legal: linear, conv"),
        ("16x8x3x2", "16x8xthree", "row 1: invalid literal for int"),
        (",seconds,", ",minutes,", "columns seconds are missing"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    text = write_measurements([ROW], 1)
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(InputError, match=message):
        read_measurements(path, 1)


def test_another_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(write_measurements([ROW], 1))
    with pytest.raises(InputError, match="row 1: batch 1; the device file says 8"):
        read_measurements(path, 8)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_linear_weight_may_lie_either_way_round() -> None:
    one, other = (Layer("", "linear", 8, 16, shape, (1,), (1,), 128) for shape in ((16, 8), (8, 16)))
    assert shape_key(one) == shape_key(other)
    assert shape_key(one) != shape_key(Layer("", "linear", 16, 8, (8, 16), (1,), (1,), 128))
    assert str(ROW.mode) == "int8/int8 (signed/unsigned)"
    assert str(Mode("int4", "float")) == "int4/float"


CONV = Layer("a.conv", "conv", 8, 16, (16, 8, 3, 3), (6, 6), (6, 6), 41472, (3, 3), (1, 1), (1, 1), bias=True, live_elements=5)


LINEAR = Layer("b.fc", "linear", 32, 10, (10, 32), (1,), (1,), 640, calls=2)


def test_a_shape_is_one_call_without_its_name() -> None:
    shape = shape_only(LINEAR)
    assert (shape.name, shape.calls, shape.macs) == ("", 1, 320)
    assert shape_key(LINEAR) == shape_key(shape)
    assert shape_key(CONV) == shape_key(shape_only(CONV))
