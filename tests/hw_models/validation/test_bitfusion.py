"""The published schedules of Bit Fusion, and files that are like them but wrong."""

from pathlib import Path

import pytest

from hw_models.device import FOLDER, Device
from hw_models.loading import load_device
from hw_models.validation.run import validate
from quant_core.util.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def device() -> Device:
    return load_device("bitfusion")


def test_every_published_schedule_is_exact(device: Device) -> None:
    checks = {check.name: check for check in validate(device)}
    assert [check.passed for check in checks.values()] == [True] * 3
    rows = checks["published schedules, cycles and stalls"]
    assert (rows.n, rows.exact, rows.mismatches) == (176, 176, ())
    assert "stall_cycles exact in 176 of 176" in rows.remarks[0]
    assert rows.remarks[0].count(" 176") == 10
    assert checks["cycles of whole networks, batch 16"].exact == 5


@pytest.mark.parametrize("column", ["cycles", "stall_cycles"])
def test_another_file_fails_on_one_wrong_figure_and_shows_it(device: Device, tmp_path: Path, column: str) -> None:
    lines = [line for line in (FOLDER / "bitfusion.csv").read_text().splitlines() if not line.startswith("#")]
    place = lines[0].split(",").index(column)
    values = lines[5].split(",")
    values[place] = str(int(values[place]) + 1)
    path = tmp_path / "other.csv"
    path.write_text("\n".join([lines[0], *lines[1:5], ",".join(values)]))
    (check,) = validate(device, path)
    assert (check.n, check.exact, check.passed) == (5, 4, False)
    assert len(check.mismatches) == 1
    assert "AlexNet conv1_b (16x32, 192 bits/cycle; stalls" in check.mismatches[0]


def test_a_row_that_is_no_number_is_refused(device: Device, tmp_path: Path) -> None:
    lines = (FOLDER / "bitfusion.csv").read_text().splitlines()[1:3]
    path = tmp_path / "other.csv"
    path.write_text("\n".join([lines[0], lines[1].replace(",96,", ",many,", 1)]))
    with pytest.raises(InputError, match="row 1: out_channels is 'many'; a whole number from 1 is needed"):
        validate(device, path)
    values = lines[1].split(",")
    for column, wrong, message in (
        ("dram_read_bits", "", "row 1: dram_read_bits is ''; a whole number from 0 is needed"),
        ("array_rows", "0", "row 1: array_rows is '0'; a whole number from 1 is needed"),
        ("act_sram_bytes", "1", "AlexNet conv1_a: LayerWorkload.* not even the smallest tile fits"),
    ):
        altered = [wrong if name == column else value for name, value in zip(lines[0].split(","), values, strict=True)]
        path.write_text("\n".join([lines[0], ",".join(altered)]))
        with pytest.raises(InputError, match=message):
            validate(device, path)
    path.write_text("network,layer\nA,b\n")
    with pytest.raises(InputError, match=r"columns kernel, out_size, .* are missing"):
        validate(device, path)
