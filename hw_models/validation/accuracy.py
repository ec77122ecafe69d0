"""The error of a device's latencies, as `[accuracy]` of its file states it: of figures that the fit of the model did not see."""

import numpy as np

from hw_models.device import Device
from hw_models.models import find_check


def latency_error_percent(device: Device) -> tuple[float, float] | None:
    """Return (mean, max) error in percent over all golden checks of latencies that leave figures out; None where none does."""
    comparisons = [find_check(device.file.identity.kind, golden.check)(device, golden) for golden in device.file.golden]
    unseen = [comparison.unseen_percent for comparison in comparisons if comparison.unseen_percent is not None]
    if not unseen:
        return None
    errors = np.concatenate(unseen)
    return float(errors.mean()), float(errors.max())
