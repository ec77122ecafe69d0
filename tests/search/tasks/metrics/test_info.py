"""Errors of metrics: what falls when a metric gets better."""

import pytest

from quant_core.util.errors import BitfrontError
from search.tasks.metrics.info import MetricInfo, reference_error


def test_the_error_is_the_distance_from_the_best_value() -> None:
    assert MetricInfo("accuracy").error(0.75) == 0.25
    assert MetricInfo("mae", higher=False, best=0.0).error(0.75) == 0.75
    assert MetricInfo("accuracy").error(1.0 + 1e-9) == 0.0  # rounding


def test_the_formula_says_it() -> None:
    assert MetricInfo("f1").formula == "1 - f1"
    assert MetricInfo("mae", False, best=0.0).formula == "mae"
    assert MetricInfo("perplexity", False, best=1.0).formula == "perplexity - 1"
    assert MetricInfo("psnr", unit="dB", best=None).formula == "10^(-psnr/10)"


def test_a_value_below_the_best_is_refused() -> None:
    with pytest.raises(
        BitfrontError, match=r"metric 'mae' is -1, below its best value 0; say what is best: bitfront.metric\(..., best=VALUE"
    ):
        MetricInfo("mae", False, best=0.0).error(-1.0)


def test_the_reference_is_the_worst_error_or_four_times_the_float_one() -> None:
    assert reference_error(MetricInfo("f1", worst=1.0), 0.1) == 1.0
    assert reference_error(MetricInfo("mae", False, best=0.0), 0.1) == 0.4
    assert reference_error(MetricInfo("mae", False, best=0.0), 0.0) == 1.0
