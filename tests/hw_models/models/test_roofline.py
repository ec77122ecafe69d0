import csv
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hw_models.device import FOLDER, Device
from hw_models.loading import load_device, parse_device
from hw_models.models.roofline import calibrate, leave_one_out, leave_shape_out
from hw_models.shapes import layer_of
from hw_models.table import cost_policy
from hw_models.validation.run import validate
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

Array = NDArray[np.float64]


def measured(pair_bits: int) -> tuple[Array, Array, list[str]]:
    """Return features and seconds of the T4 rows, computed here from the CSV alone."""
    with (FOLDER / "t4_hawqv3.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    matrix = []
    for row in rows:
        ci, co, k, out, batch = (int(row[key]) for key in ("in_channels", "out_channels", "kernel", "out_size", "batch"))
        outputs = batch * out * out * co
        matrix.append([1.0, outputs * ci * k * k, outputs, ci * k * k])
    seconds = np.array([float(row[f"int{pair_bits}_ms"]) * 1e-3 for row in rows])
    return np.array(matrix), seconds, [row["network"] for row in rows]


def least_squares(matrix: Array, seconds: Array) -> Array:
    """Return the unconstrained relative least-squares fit of the given columns."""
    scaled = matrix / seconds[:, None]
    unit = scaled.max(axis=0)
    coefficients: Array = np.linalg.lstsq(scaled / unit, np.ones(len(seconds)), rcond=None)[0] / unit
    return coefficients


@pytest.mark.parametrize(("bits", "bound", "worst"), [(8, 0.06, 0.22), (4, 0.08, 0.34)])
def test_the_calibration_of_the_t4_is_the_fit_of_its_measured_layers(bits: int, bound: float, worst: float) -> None:
    matrix, seconds, network = measured(bits)
    fitted = calibrate(matrix, seconds)
    used = fitted > 0  # of int4, the launch comes to nothing
    assert used.sum() == {8: 4, 4: 3}[bits]
    assert fitted[used] == pytest.approx(least_squares(matrix[:, used], seconds), rel=1e-9)
    (shipped,) = (calibration for calibration in load_device("t4").file.calibration if calibration.pair == f"int{bits}/int{bits}")
    assert [shipped.c0_s, shipped.c1_s_per_mac, shipped.c4_s_per_output, shipped.c5_s_per_depth] == pytest.approx(fitted.tolist(), rel=1e-5)
    assert (shipped.c2_s_per_byte, shipped.c3_s_per_byte) == (0.0, 0.0)
    error = np.abs(leave_one_out(matrix, seconds) / seconds - 1)
    assert error.mean() <= bound
    assert error.max() <= worst
    first = np.array([name == "resnet18" for name in network])
    assert first.sum() == 19
    total = (matrix[~first] @ calibrate(matrix[first], seconds[first])).sum()
    assert abs(total / seconds[~first].sum() - 1) <= 0.08


def test_the_uncalibrated_error_is_printed_beside() -> None:
    for check, error in zip(validate(load_device("t4")), (94, 95), strict=True):
        assert check.n == 71
        assert f"UNCALIBRATED (datasheet peak and bandwidth): mean error {error} %" in check.remarks


def test_coefficients_are_never_negative_and_a_flawless_law_is_recovered() -> None:
    rng = np.random.default_rng(0)
    matrix = np.stack([np.ones(30), *rng.uniform(1e3, 1e6, (3, 30))], axis=1)
    assert calibrate(matrix, matrix @ [1e-3, 2e-9, 3e-9, 4e-9]) == pytest.approx([1e-3, 2e-9, 3e-9, 4e-9], rel=1e-6)
    assert (calibrate(matrix, matrix @ [1e-3, 2e-9, -1e-10, 4e-9]) >= 0).all()


def test_too_few_measurements_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 times given, least 1.0; at least 4 positive ones needed"):
        calibrate(np.ones((3, 4)), np.ones(3))
    with pytest.raises(InputError, match="at least 4 positive ones needed"):
        calibrate(np.ones((5, 4)), np.zeros(5))


LAYER = layer_of({"index": "a", "kind": "conv", "in_channels": "64", "out_channels": "64", "kernel": "3", "in_size": "56"})


def latency(device: Device, weight: str, activation: str) -> float:
    return cost_policy(device, (LAYER,), {"a": LayerPolicy(parse(weight), parse(activation))})["latency_s"]


def test_a_measured_layer_is_costed_near_its_measurement_and_a_mixed_pair_as_the_wider() -> None:
    device = load_device("t4")
    assert latency(device, "int8", "int8") == pytest.approx(0.362e-3, rel=0.25)
    assert latency(device, "int4", "int4") == pytest.approx(0.211e-3, rel=0.25)
    assert latency(device, "int4", "int8") == latency(device, "int8", "int4") == latency(device, "int8", "int8")
    assert latency(device, "int3", "int4") == latency(device, "int4", "int4") < latency(device, "int8", "int8")
    assert latency(device, "float", "float") >= latency(device, "int8", "int8")


def test_the_datasheet_roofline_is_the_larger_of_arithmetic_and_traffic() -> None:
    device = load_device("a100")
    policy = LayerPolicy(parse("int8:channel"), parse("int8"))
    moved = (LAYER.in_elements + LAYER.out_elements) * 8 + policy.weight.storage_bits(LAYER.weight_shape)
    assert latency(device, "int8:channel", "int8") == pytest.approx(max(2 * LAYER.macs / 624e12, moved / 8 / 1555e9), rel=1e-12)
    wide = replace(LAYER, macs=LAYER.macs * 1000)
    totals = cost_policy(device, (wide,), {"a": policy})
    assert totals["latency_s"] == pytest.approx(2 * wide.macs / 624e12, rel=1e-12)
    assert totals["energy_j"] == pytest.approx(400 * totals["latency_s"], rel=1e-12)


def test_peaks_are_per_format_not_per_bit_count() -> None:
    device = load_device("b200")
    with pytest.raises(InputError, match="b200 cannot run weight=int4"):
        latency(device, "int4", "mxfp4")
    big = replace(LAYER, macs=LAYER.macs * 10000)
    four = cost_policy(device, (big,), {"a": LayerPolicy(parse("mxfp4"), parse("mxfp4"))})["latency_s"]
    eight = cost_policy(device, (big,), {"a": LayerPolicy(parse("mxfp8"), parse("mxfp8"))})["latency_s"]
    assert eight == pytest.approx(2 * four, rel=1e-12)


def test_a_legal_pair_without_a_peak_and_a_roofline_without_memory_are_refused() -> None:
    text = load_device("h100").to_toml()
    with pytest.raises(InputError, match="layer 'a': h100 states no peak for float/float; it has int8/int8"):
        latency(parse_device(text.replace('pair = "float/float"', 'pair = "int8/int8"')), "float", "float")
    with pytest.raises(InputError, match=r"a roofline needs a \[\[memory\]\] level with bytes_per_s"):
        latency(parse_device(text.replace("bytes_per_s", "bits_per_cycle")), "int8", "int8")


def test_a_check_that_the_file_cannot_run_says_what_is_missing() -> None:
    text = load_device("t4").to_toml()
    with pytest.raises(InputError, match=r"a roofline needs a \[\[memory\]\] level with bytes_per_s"):
        validate(parse_device("\n".join(line for line in text.splitlines() if not line.startswith("bytes_per_s"))))
    with pytest.raises(InputError, match="a check of 'int8/int3', which has no peak; metric takes one of"):
        validate(parse_device(text.replace('metric = "int8/int8"', 'metric = "int8/int3"')))


def test_equal_shapes_leave_together() -> None:
    matrix, seconds, _ = measured(8)
    predicted = leave_shape_out(matrix, seconds)
    for i in (0, 40):
        others = (matrix != matrix[i]).any(axis=1)
        assert others.sum() < len(matrix) - 1
        assert predicted[i] == pytest.approx(float(matrix[i] @ calibrate(matrix[others], seconds[others])), rel=1e-12)


def test_traffic_of_the_datasheet_is_that_of_the_stored_bits() -> None:
    """An int3 runs as int4 on an a100, but 3 bits of it move; a layer that waits for memory shows it."""
    layer = replace(LAYER, macs=1)
    policies = {bits: LayerPolicy(parse(f"int{bits}:channel"), parse(f"int{bits}")) for bits in (3, 4)}
    times = {bits: cost_policy(load_device("a100"), (layer,), {"a": policy})["latency_s"] for bits, policy in policies.items()}
    moved = (layer.in_elements + layer.out_elements) * 3 + policies[3].weight.storage_bits(layer.weight_shape)
    assert times[3] == pytest.approx(moved / 8 / 1555e9, rel=1e-12)
    assert times[3] < times[4]
