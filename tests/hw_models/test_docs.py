"""docs/hardware.md states the errors that `bitfront devices validate` prints."""

import math
from pathlib import Path

import pytest

from hw_models.loading import device_names, load_device
from hw_models.validation.run import Check, validate
from hw_models.validation.widths import widths_row

DOCS = Path(__file__).parent.parent.parent / "docs" / "hardware.md"


def row(check: Check) -> str:
    """Return the row of one check as the docs write it."""
    rank = "-" if math.isnan(check.rank) else f"{check.rank:.4f}"
    figures = f"{check.n} | {check.exact} | {check.mean_percent:.3g} % | {check.max_percent:.3g} % | {rank}"
    return f"| `{check.device}` | {check.name} | {figures} |"


@pytest.mark.parametrize("name", device_names())
def test_the_docs_state_every_check(name: str) -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    for check in validate(load_device(name)):
        assert row(check) in lines
        for remark in check.remarks:
            figures = [word for word in remark.split() if word.replace(".", "").isdigit() and "." in word]
            assert all(figure in DOCS.read_text(encoding="utf-8") for figure in figures), remark


@pytest.mark.parametrize("name", device_names())
def test_the_docs_state_what_runs_and_what_is_stored(name: str) -> None:
    assert widths_row(load_device(name)) in DOCS.read_text(encoding="utf-8").splitlines()
