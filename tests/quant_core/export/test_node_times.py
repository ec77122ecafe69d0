"""The time of operations by onnxruntime's profiler."""

from quant_core.export.node_times import low_mean


def test_the_lowest_fifth_of_times_counts() -> None:
    assert low_mean([1.0, 3.0, 100.0, 100.0, 100.0]) == 2.0
    assert low_mean([5.0]) == 5.0
