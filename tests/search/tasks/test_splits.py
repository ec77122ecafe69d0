"""Splits of examples that come in one part or in several."""

import pytest

from quant_core.util.errors import InputError
from search.tasks.splits import divide

TEN = list(range(10))


@pytest.mark.parametrize(
    ("parts", "valid_size", "wanted"),
    [
        ({"": TEN}, None, ([0, 1], [2, 3, 4, 5], [6, 7, 8, 9])),
        ({"": TEN}, 6, ([0, 1], [2, 3, 4, 5, 6, 7], [8, 9])),
        ({"": TEN, "test": [50]}, None, ([0, 1], TEN[2:], [50])),
        ({"": TEN, "test": [50]}, 3, ([0, 1], [2, 3, 4], [50])),
        ({"valid": TEN}, None, ([0, 1], [2, 3, 4], [5, 6, 7, 8, 9])),
        ({"train": [20, 21], "valid": TEN, "test": [50]}, 3, ([20, 21], TEN, [50])),
    ],
)
def test_parts_are_divided(parts: dict[str, list[int]], valid_size: int | None, wanted: tuple[list[int], ...]) -> None:
    assert divide(parts, 2, "data", "examples", valid_size) == wanted


@pytest.mark.parametrize(
    ("parts", "calib", "valid_size", "message"),
    [
        ({"": TEN}, 9, None, "data has 10 examples; calib_size = 9 leaves none for valid and test"),
        ({"": TEN, "test": [50]}, 10, None, "calib_size = 10 leaves none for valid"),
        ({"": TEN}, 4, 6, "calib_size = 4 and valid_size = 6 leave none for test"),
        ({"": TEN}, 4, 7, "calib_size = 4 and valid_size = 7 leave none for valid and test"),
    ],
)
def test_too_few_examples_are_counted(parts: dict[str, list[int]], calib: int, valid_size: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        divide(parts, calib, "data", "examples", valid_size)
