"""What a point of a figure says."""

from collections.abc import Callable
from dataclasses import replace

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from search.records.record import SweepRecord
from search.report.words import axis, hover, in_words, judged, strip

MakeSweep = Callable[..., SweepRecord]


def policy(*weights: str) -> Policy:
    return Policy({f"layer{i}": LayerPolicy(parse(weight), parse("int8:tensor:ema")) for i, weight in enumerate(weights)})


def test_a_policy_in_words() -> None:
    some = policy("int8:channel:mse", "int4:channel:mse", "int4:channel:mse", "float")
    assert in_words(some) == "weights int4:channel:mse in 2 layers, int8:channel:mse in 1, float in 1; activations int8:tensor:ema"
    assert strip(some) == "8 4x2 16"
    assert in_words(policy("int4:channel:mse")) == "weights int4:channel:mse; activations int8:tensor:ema"
    assert in_words(policy(*(f"int{bits}:channel:mse" for bits in range(2, 9)))).count(" in 1") == 4
    assert ", 3 more; " in in_words(policy(*(f"int{bits}:channel:mse" for bits in range(2, 9))))


def test_figures_stand_beside_the_float_networks(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    trial = replace(sweep.trials[1], test={"accuracy": 0.96})
    rows = dict(judged(sweep, trial))
    accuracy = trial.result.metrics["accuracy"]
    assert rows["accuracy, validation"] == f"{100 * accuracy:.2f} % ({100 * accuracy - 98:+.2f} points to float)"
    assert rows["accuracy, test"] == "96.00 % (-1.00 points to float)"
    assert rows["size"] == "3 KiB (4.0 x smaller than float)"
    counted = replace(sweep, baseline={**sweep.baseline, "examples_test": 600.0})
    assert dict(judged(counted, trial))["accuracy, test"] == "96.00 % ± 0.80 % (-1.00 points to float)"
    assert "over the limit" in hover(replace(sweep, limits={"weight_bytes": 1.0}), trial)
    assert "over the limit" not in hover(sweep, trial)
    figures = [line for line in hover(sweep, trial).split("<br>") if line.startswith(("accuracy", "size", "latency", "("))]
    assert len(figures) >= 3
    assert all(len(line) <= 46 for line in figures), "a telephone cuts it"
    assert (axis("error", sweep), axis("latency_s", sweep)) == ("validation error [%]", "latency [ms]")
