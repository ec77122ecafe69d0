"""Times of a policy beside float32."""

import dataclasses

import numpy as np
import pytest

from quant_core.util.errors import InputError
from search.exporters import measuring
from search.exporters.runtimes import runtime
from tests.search.exporters.test_onnx_qdq import bundle


def test_policy_and_float_are_timed_in_turns_and_the_median_of_their_ratios_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def timed(files: list[object], *_rest: object, repeats: int, own: bool) -> object:
        assert not own  # of two threads the clock counts
        calls.append((len(files), repeats))
        return np.array([[0.003, 0.001], [0.002, 0.009], [0.004, 0.005]])

    monkeypatch.setattr(measuring, "timed", timed)
    timing = measuring.measure(bundle("weight=int8:channel,activation=int8:tensor"), runtime("onnxruntime"), 2, 30)
    assert calls == [(2, 3), (2, 500)]
    assert (timing.latency_s, timing.float32_latency_s, timing.ratio, timing.repeats) == (0.002, 0.001, pytest.approx(0.8), 3)
    assert (timing.median_s, timing.integer_layers, timing.key) == (0.003, "2 of 2", "onnxruntime.2")
    assert timing.verdict == timing.to_json()["verdict"] == "1.2 x faster than float32 here", "the median of 3, 0.22 and 0.8"


def test_a_policy_that_the_runtime_does_not_hold_is_refused_by_its_id() -> None:
    made = bundle("weight=kmeans4:tensor")
    fault = f"policy {made.policy.id} in onnxruntime: layer '0': ONNX has no operator for kmeans4:tensor"
    export = "`bitfront export SWEEP --out DIR -f onnx --allow-dequantized --measure` times such weights in float32"
    advice = f"--pick another policy, or name another --runtime; {export}"
    with pytest.raises(InputError, match=rf"^{fault}.*\. {advice}\.$"):
        measuring.measure(dataclasses.replace(made), runtime("onnxruntime"), 1, 3)
