import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from hw_models.device import FOLDER
from hw_models.loading import device_names, load_device
from hw_models.validation.figures import rank_correlation, relative_percent
from hw_models.validation.run import validate
from quant_core.util.errors import InputError

TABLE = FOLDER / "haq_vu9p_mobilenetv2.csv"


@pytest.mark.parametrize("name", [each for each in device_names() if load_device(each).file.golden])
def test_every_shipped_golden_is_within_its_tolerance(name: str) -> None:
    for check in validate(load_device(name)):
        assert check.passed, check
        assert check.n > 0
        assert check.source


def test_devices_with_published_figures_have_goldens() -> None:
    without = {name for name in device_names() if not load_device(name).file.golden}
    assert without <= {"a100", "h100", "h200", "b200", "generic-cpu"}


def figures(name: str, check: int) -> dict[str, float]:
    return {point.name: point.expected for point in load_device(name).file.golden[check].points}


def test_the_figures_in_the_device_files_are_the_published_ones(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())
    tiny = published["stm32h743_latency_ms"]
    for device, engine in (("tinyengine", "tinyengine"), ("cmsis-nn", "cmsis_nn"), ("xcubeai", "xcubeai")):
        assert figures(f"stm32h743-{device}", 0) == {f"mcunet-{name}": each for name, each in tiny[engine].items()}
        points = load_device(f"stm32h743-{device}").file.golden[0].points
        assert [point.given["macs"] for point in points] == [1e6 * tiny["mmacs"][name] for name in tiny[engine]]
    boards = published["mlperf_tiny_v1_1_int8"]
    for device in ("nucleo_h7a3zi_q", "nucleo_u575zi_q"):
        named = dict(zip(("ic", "vww", "kws", "ad"), boards[device]["uj"], strict=True))
        assert figures(device.replace("_", "-"), 0) == named
        given = [point.given["latency_ms"] for point in load_device(device.replace("_", "-")).file.golden[0].points]
        assert given == boards[device]["ms"]
    rates = {f"int{w}/int{a}": rate for a, row in published["mpic_mac_per_cycle"].items() if a.isdigit() for w, rate in row.items()}
    assert figures("mpic", 0) == rates
    macs = published["mac_energy_synthesised_45nm_pj"]
    assert figures("horowitz-45nm", 0) == {f"int{bits}": pj for bits, pj in macs.items() if bits.isdigit()}
    assert figures("vu9p-lut", 1) == {k: v for k, v in published["haq_vu9p_lut_totals_cycles"].items() if k != "source"}
    counts = published["hawqv3_counts"]["resnet18_bops_g"]
    assert list(figures("counts", 0).values()) == [1e9 * each for each in counts.values()]
    assert figures("pynq-z1-bismo", 0) == {"binary": 1e12 * published["bismo"]["peak_binary_tops"]["pynq_z1"]}
    assert figures("ultra96-bismo", 0) == {"binary": 1e12 * published["bismo"]["peak_binary_tops"]["ultra96"]}


def test_the_issues_bounds_hold() -> None:
    found = {(each.device, n): each for name in device_names() for n, each in enumerate(validate(load_device(name)))}
    bitserial = found["vu9p-bitserial", 0]
    assert bitserial.n == 2000
    assert bitserial.mean_percent < 2.0
    assert bitserial.max_percent < 3.5
    assert found["vu9p-lut", 0].exact == found["vu9p-lut", 0].n == 53 * 64
    assert all(found[f"stm32h743-{engine}", 0].mean_percent < 8 for engine in ("tinyengine", "cmsis-nn", "xcubeai"))
    assert all(found[board, 0].max_percent < 6 for board in ("nucleo-h7a3zi-q", "nucleo-u575zi-q"))
    assert found["mpic", 0].exact == 9
    assert found["t4", 0].mean_percent <= 8
    assert found["t4", 1].mean_percent <= 11
    assert found["horowitz-45nm", 0].mean_percent < 15


def test_relative_error_and_exactness() -> None:
    expected, predicted = np.array([100.0, 0.0, 0.0, 7.0]), np.array([90.0, 0.0, 1.0, 7.0 * (1 + 1e-15)])
    assert relative_percent(expected, predicted).tolist() == [10.0, 0.0, 100.0, 0.0]


def test_rank_correlation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 40):
        x, y = rng.integers(0, 6, size).astype(float), rng.normal(size=size)
        assert rank_correlation(x, y) == pytest.approx(float(spearmanr(x, y).statistic), abs=1e-12)
    assert math.isnan(rank_correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5.0)))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_same_file_given_as_golden_agrees_exactly(tmp_path: Path) -> None:
    copy = write(tmp_path / "copy.csv", rows_of(TABLE))
    (check,) = validate(load_device("vu9p-lut"), copy)
    assert (check.name, check.n, check.exact, check.passed) == ("copy.csv", 3392, 3392, True)
    (check,) = validate(load_device("vu9p-bitserial"), copy)
    assert (check.n, check.passed) == (2000, True)


def test_one_wrong_row_is_found_and_named(tmp_path: Path) -> None:
    rows = rows_of(TABLE)
    rows[70]["cycles"] = "1"
    (check,) = validate(load_device("vu9p-lut"), write(tmp_path / "wrong.csv", rows))
    assert not check.passed
    assert check.exact == 3391
    assert check.mismatches[0].startswith(f"layer {rows[70]['index']} at {rows[70]['w_bits']}/{rows[70]['a_bits']}: expected 1, model ")
    (check,) = validate(load_device("vu9p-bitserial"), write(tmp_path / "wrong.csv", [{**row, "cycles": "5"} for row in rows]))
    assert not check.passed


def test_a_part_of_a_table_is_enough_for_entries_and_too_little_for_policies(tmp_path: Path) -> None:
    part = write(tmp_path / "part.csv", rows_of(TABLE)[:70])
    (check,) = validate(load_device("vu9p-lut"), part)
    assert (check.n, check.passed) == (70, True)
    with pytest.raises(InputError, match="no row for layer 1 at 1/7; to draw whole policies every layer needs every pair"):
        validate(load_device("vu9p-bitserial"), part)


def test_golden_files_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    rows = rows_of(TABLE)[:64]
    with pytest.raises(InputError, match="device mpic: no golden check of it reads a CSV file"):
        validate(load_device("mpic"), TABLE)
    with pytest.raises(InputError, match="columns cycles are missing"):
        validate(load_device("vu9p-lut"), write(tmp_path / "a.csv", [{k: v for k, v in row.items() if k != "cycles"} for row in rows]))
    with pytest.raises(InputError, match="batch 1 given; vu9p-lut runs batches of 16"):
        validate(load_device("vu9p-lut"), write(tmp_path / "b.csv", [{**row, "batch": "1"} for row in rows]))
    with pytest.raises(InputError, match=r"layer '0' \(conv, 3 to 33 channels.*no layer of its shape was measured on vu9p-lut"):
        validate(load_device("vu9p-lut"), write(tmp_path / "c.csv", [{**row, "out_channels": "33"} for row in rows]))
    for wrong in ("many", "", "-3", "nan"):
        with pytest.raises(InputError, match=f"cycles is {wrong!r} in row .*; a positive number is needed"):
            validate(load_device("vu9p-lut"), write(tmp_path / "d.csv", [{**row, "cycles": wrong} for row in rows]))
    with pytest.raises(InputError, match="columns network, out_size, int8_ms are missing"):
        validate(load_device("t4"), TABLE)


def test_rows_that_contradict_or_repeat_each_other_are_refused(tmp_path: Path) -> None:
    rows = rows_of(TABLE)[:64]
    for change, message in (
        ({3: {"kernel": "5"}}, "row 4 describes layer 0 otherwise than a row before it; give one shape per index"),
        ({3: rows[2]}, "row 4 gives layer 0 at 1/3 bits a second time; give it once"),
        ({5: {"w_bits": "nine"}}, "row 6: w_bits is 'nine'; a whole number from 1 is needed"),
        ({5: {"a_bits": "0"}}, "row 6: a_bits is '0'; a whole number from 1 is needed"),
    ):
        altered = [row | change.get(n, {}) for n, row in enumerate(rows)]
        with pytest.raises(InputError, match=message):
            validate(load_device("vu9p-lut"), write(tmp_path / "e.csv", altered))


def test_files_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    lines = TABLE.read_text().splitlines()[:20]
    path.write_text("\ufeff" + "\r\n".join(line.replace(",", ", ") for line in lines if not line.startswith("#")) + "\r\n\r\n")
    (check,) = validate(load_device("vu9p-lut"), path)
    assert check.passed
    assert check.n > 10
