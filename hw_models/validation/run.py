"""Run the golden checks of a device: the figures of its model against published or measured ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw_models.device import Device
from hw_models.models import GoldenComparison, find_check
from hw_models.schema.device_file import Golden
from hw_models.validation.figures import rank_correlation, relative_percent
from quant_core.util.errors import InputError


@dataclass(frozen=True)
class Check:
    """The outcome of one golden check. Errors are relative, in percent, of n figures.

    Attributes:
        source: title of where the figures come from.
        exact: figures that agree to the last digits of a float64.
        rank: Spearman's rank correlation; NaN where fewer than three figures differ.
        passed: mean and max error are within the tolerance that the file states; a max of 0 asks for every row to be exact.
        mismatches: the worst rows, in words; the first ones where every row has to be exact.
        remarks: further lines to print.
    """

    device: str
    name: str
    source: str
    n: int
    exact: int
    mean_percent: float
    max_percent: float
    rank: float
    tolerance_mean_percent: float
    tolerance_max_percent: float
    passed: bool
    mismatches: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def validate(device: Device, golden_path: Path | None = None) -> tuple[Check, ...]:
    """Run every golden check of `device`, or, with `golden_path`, its check of that kind of file on another file.

    Raises:
        InputError: `golden_path` was given, but the device has no check that reads a file; or the file is not readable as one.
    """
    goldens = device.file.golden
    if golden_path is not None:
        reading = [golden for golden in goldens if golden.file and not golden.points]
        if not reading:
            raise InputError(f"device {device.name}: no golden check of it reads a CSV file, so --golden has no meaning here.")
        goldens = (replace_file(reading[0], golden_path),)
    return tuple(_run(device, golden) for golden in goldens)


def replace_file(golden: Golden, path: Path) -> Golden:
    """Return the same check on another file."""
    return golden.model_copy(update={"file": str(path.resolve()), "name": path.name})


def _mismatch(comparison: GoldenComparison, i: int) -> str:
    return f"{comparison.labels[i]}: expected {comparison.expected[i]:.10g}, model {comparison.predicted[i]:.10g}"


def _run(device: Device, golden: Golden) -> Check:
    comparison = find_check(device.file.identity.kind, golden.check)(device, golden)
    error = relative_percent(comparison.expected, comparison.predicted)
    exact = error == 0 if comparison.exact is None else comparison.exact
    mean, worst = float(error.mean()), float(error.max())
    within = mean <= golden.tolerance_mean_percent and worst <= golden.tolerance_max_percent
    all_exact = golden.tolerance_max_percent == 0
    order = np.flatnonzero(~exact) if all_exact else np.argsort(-np.where(exact, 0.0, error), kind="stable")
    titles = {source.id: source.title for source in device.file.source}
    ids = (golden.source,) if isinstance(golden.source, str) else golden.source
    return Check(
        device.name,
        golden.name,
        "; ".join(titles[source] for source in ids),
        len(error),
        int(exact.sum()),
        mean,
        worst,
        rank_correlation(comparison.expected, comparison.predicted),
        golden.tolerance_mean_percent,
        golden.tolerance_max_percent,
        bool(exact.all() if all_exact else within),
        tuple(_mismatch(comparison, i) for i in order[:5] if not exact[i]),
        comparison.remarks,
    )
