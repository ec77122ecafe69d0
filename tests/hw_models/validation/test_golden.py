import csv
from pathlib import Path

import pytest

from hw_models.device import FOLDER
from hw_models.loading import load_device
from hw_models.validation.run import validate
from quant_core.util.errors import InputError

TABLE = FOLDER / "haq_vu9p_mobilenetv2.csv"


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
