"""One table of units for every command, page and picture."""

import pytest

from search.records.units import cells, label, shown, title_of, unit_of
from search.tasks.metrics.info import MetricInfo


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("latency_s", 0.0021, "2.1 ms"),
        ("latency_s", 3.2e-8, "3.2e-05 ms"),
        ("latency_s", 123.4567, "123457 ms"),
        ("stall_s", 0.5, "500 ms"),
        ("energy_j", 3.2e-6, "0.0032 mJ"),
        ("weight_bytes", 2048.0, "2 KiB"),
        ("weight_bytes", 0.0, "0 KiB"),
        ("peak_activation_bytes", 12_345_678.0, "12056 KiB"),
        ("cache_bytes", 3 * 2**20, "3 MiB"),
        ("accuracy_test", 0.96789, "96.79 %"),
        ("error", 1.0, "100.00 %"),
        ("error_valid", 0.0, "0.00 %"),
        ("top1_agreement", 0.9995, "99.95 %"),
        ("bits_weight_avg", 4.125, "4.125"),
        ("macs", 2.5e6, "2.5 M"),
        ("loss", 0.25, "0.25"),
        ("latency_s", None, "-"),
    ],
)
def test_every_metric_has_its_unit(metric: str, value: float | None, text: str) -> None:
    assert shown(metric, value) == text


def test_titles_name_the_unit_once() -> None:
    assert [label(metric) for metric in ("weight_bytes", "latency_s", "error", "bits_weight_avg")] == [
        "weight [KiB]",
        "latency [ms]",
        "error [%]",
        "bits per weight",
    ]
    assert title_of("peak_activation_bytes") == "peak activation"
    assert unit_of("weight_bytes").size == 1024


def test_a_tasks_metrics_have_the_unit_and_direction_that_it_states() -> None:
    infos = (MetricInfo("bias", False, "K", 0.0), MetricInfo("share", True, "%"), MetricInfo("rank"))
    assert [label(name, infos) for name in ("bias_valid", "share_float_test", "rank", "error", "weight_bytes")] == [
        "bias valid ↓ [K]",
        "share float test ↑ [%]",
        "rank ↑",
        "error = bias",
        "weight [KiB]",
    ]
    assert shown("share_test", 0.5, infos) == "50.00 %"
    assert shown("bias_valid", 0.25, infos) == "0.25 K"
    assert shown("error", 0.25, infos) == "0.25"
    assert shown("error", 0.25, infos[1:]) == "25.00 %"
    assert shown("psnr_valid", 30.126) == "30.13 dB"  # where only the name is at hand


def test_a_column_has_one_number_of_decimals_and_keeps_four_digits_of_its_largest() -> None:
    assert cells("latency_s", [0.0021, None, 1.0]) == ["2.100", "-", "1000.000"]
    assert cells("latency_s", [2.1e-6, 5e-7]) == ["0.002100", "0.000500"]
    assert cells("accuracy_valid", [0.5, 0.98765]) == ["50.00", "98.77"]
    assert cells("weight_bytes", [0.0]) == ["0.000"]
