"""One table of units for every command, page and picture."""

import pytest

from search.records.units import cells, label, shown, title_of, unit_of


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


def test_a_column_has_one_number_of_decimals_and_keeps_four_digits_of_its_largest() -> None:
    assert cells("latency_s", [0.0021, None, 1.0]) == ["2.100", "-", "1000.000"]
    assert cells("latency_s", [2.1e-6, 5e-7]) == ["0.002100", "0.000500"]
    assert cells("accuracy_valid", [0.5, 0.98765]) == ["50.00", "98.77"]
    assert cells("weight_bytes", [0.0]) == ["0.000"]
