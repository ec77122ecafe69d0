"""`[accuracy]` of a device file is computed, not written down."""

import pytest

from hw_models.loading import device_names, load_device
from hw_models.validation.accuracy import latency_error_percent


@pytest.mark.parametrize("name", device_names())
def test_the_stated_error_is_that_of_the_figures_left_out(name: str) -> None:
    device = load_device(name)
    errors, stated = latency_error_percent(device), device.file.accuracy
    assert (errors is None) == (stated is None)
    if errors is None or stated is None:
        assert device.latency_error == ""
        return
    assert (stated.latency_mean_percent, stated.latency_max_percent) == pytest.approx(errors, rel=0.005)
    assert device.latency_error == f"latency is off by {errors[0]:.3g} % on average, {errors[1]:.3g} % at most"
