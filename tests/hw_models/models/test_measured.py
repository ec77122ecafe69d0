"""A measured device: exact where measured, interpolated and marked elsewhere, signs kept apart."""

from pathlib import Path

import numpy as np
import pytest

from hw_models.device import Device
from hw_models.loading import load_device
from hw_models.measurements import Measurement, Mode
from hw_models.models.roofline import calibrate, features
from hw_models.profiling.device import write
from hw_models.profiling.host import host
from hw_models.profiling.onnx import FP32, S8S8, U8S8, U8U8
from hw_models.table import build_table
from hw_models.validation.run import validate
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, parse_layer_policy
from quant_core.util.errors import InputError


def conv(channels: int, size: int = 8) -> Layer:
    macs = channels * channels * 9 * size * size
    return Layer("c", "conv", channels, channels, (channels, channels, 3, 3), (size, size), (size, size), macs, (3, 3), (1, 1), (1, 1))


def linear(channels: int) -> Layer:
    return Layer("l", "linear", channels, channels, (channels, channels), (1,), (1,), channels * channels)


def time_of(layer: Layer, mode: Mode) -> float:
    """Return a time that a calibrated roofline can express exactly."""
    factor = {FP32: 4.0, U8S8: 1.0, U8U8: 2.0, S8S8: 9.0}[mode] * (1 if layer.kind == "conv" else 3)
    return 1e-6 + factor * 1e-10 * layer.macs


LAYERS = [conv(c, s) for c, s in ((4, 8), (8, 8), (8, 16), (16, 8), (16, 16), (32, 8), (32, 4))] + [linear(c) for c in (8, 16, 32)]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    rows = [Measurement(layer, mode, time_of(layer, mode), 0.1, 3) for layer in LAYERS for mode in (FP32, U8S8, U8U8, S8S8)]
    return load_device(write("x", tmp_path, host(1), 1, rows))


def explain(device: Device, layer: Layer, text: str) -> tuple[float, str]:
    policy: dict[str, LayerPolicy] = {layer.name: parse_layer_policy(text)}
    (row,) = build_table(device, (layer,), {layer.name: (policy[layer.name],)}).explain(policy)
    return row["latency_s"], row["note"]


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("weight=float,activation=float", FP32),
        ("weight=int8:channel,activation=int8:tensor:affine", U8S8),
        ("weight=int8:channel:affine,activation=int8:tensor:affine", U8U8),
        ("weight=int8:channel,activation=int8:tensor", S8S8),
        ("weight=int8:channel:affine,activation=int8:tensor", U8U8),
        ("weight=int4:channel,activation=int5:tensor:affine", U8S8),
    ],
)
def test_the_signs_choose_the_entry(device: Device, text: str, mode: Mode) -> None:
    note = "runs and moves as int8/int8" if "int5" in text else ""
    assert explain(device, LAYERS[0], text) == (time_of(LAYERS[0], mode), note)


def test_bits_that_were_not_measured_say_what_they_are_taken_for(device: Device) -> None:
    for bits in (3, 5, 6):
        seconds, note = explain(device, LAYERS[0], f"weight=int{bits}:channel,activation=int{bits}:tensor:affine")
        assert (seconds, note) == (time_of(LAYERS[0], U8S8), "runs and moves as int8/int8")
    assert explain(device, conv(24), "weight=int3:channel,activation=int8:tensor:affine")[1] == "interpolated, runs and moves as int8/int8"


def test_calls_multiply_the_measured_time(device: Device) -> None:
    twice = Layer(**{**{name: getattr(LAYERS[0], name) for name in LAYERS[0].__slots__}, "calls": 2, "macs": 2 * LAYERS[0].macs})
    assert explain(device, twice, "weight=float,activation=float")[0] == pytest.approx(2 * time_of(LAYERS[0], FP32))


def test_an_unseen_shape_is_interpolated_through_its_kind_and_marked(device: Device) -> None:
    unseen = conv(24)
    for text, mode in (("weight=float,activation=float", FP32), ("weight=int8:channel,activation=int8:tensor", S8S8)):
        seconds, note = explain(device, unseen, text)
        assert note == "interpolated"
        assert seconds == pytest.approx(time_of(unseen, mode), rel=1e-6)


def test_a_kind_with_few_shapes_is_interpolated_through_all(device: Device) -> None:
    seconds, note = explain(device, linear(64), "weight=float,activation=float")
    matrix = np.concatenate([features(layer, 1, np.array([layer.weights * 4.0]), np.array([32.0])) for layer in [*LAYERS, linear(64)]])
    fit = calibrate(matrix[:-1], np.array([time_of(layer, FP32) for layer in LAYERS]))
    assert note == "interpolated"
    assert seconds == pytest.approx(float(matrix[-1] @ fit))


def test_too_few_measurements_to_interpolate_are_an_error(tmp_path: Path) -> None:
    rows = [Measurement(layer, FP32, time_of(layer, FP32), 0.1, 3) for layer in LAYERS[:3]]
    few = load_device(write("few", tmp_path, host(1), 1, rows))
    assert few.file.golden == ()
    with pytest.raises(InputError, match=r"layer 'c' \(conv\): neither its shape nor 4 others were measured in float/float on few"):
        explain(few, conv(99), "weight=float,activation=float")


def test_the_error_of_the_interpolation_is_told(device: Device) -> None:
    (check,) = validate(device)
    assert (check.name, check.n) == ("interpolation, leave one out", 7 * 4)  # the three linear shapes are too few to leave one out
    assert check.max_percent < 1e-6
    assert check.passed
