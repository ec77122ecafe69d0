import numpy as np

from hw_models.models.bitfusion.machine import LayerWorkload, fusion, native_bits, workload_of
from hw_models.shapes import layer_of
from quant_core.spec.layer import Layer


def conv(ci: int, co: int, kernel: int = 3, size: int = 8, **more: object) -> Layer:
    row = {"layer": "x", "kind": "conv", "in_channels": ci, "out_channels": co, "kernel": kernel, "in_size": size, **more}
    return layer_of({key: str(value) for key, value in row.items()})


def test_bits_run_as_native_bits() -> None:
    bits = np.arange(1, 17)
    assert native_bits(bits).tolist() == [2, 2, 4, 4, 8, 8, 8, 8] + [16] * 8
    factor, passes = fusion(np.array([2, 4, 8, 16]), np.array([2, 2, 8, 16]))
    assert factor.tolist() == [16, 8, 1, 1]
    assert passes.tolist() == [1, 1, 1, 4]
    narrow, _ = fusion(np.array([1, 3, 5, 6, 7]), np.array([1, 1, 8, 3, 7]))
    assert narrow.tolist() == [16, 8, 1, 2, 1]


def test_layers_become_the_work_of_the_array() -> None:
    assert workload_of(conv(3, 32, 3, 8, stride=2), 16, 4) == (LayerWorkload(16, 4, 4, 3, 32, (3, 3), (2, 2), im2col=True), 1)
    assert workload_of(conv(64, 32, 3, 8, groups=4), 16, 4) == (LayerWorkload(16, 8, 8, 16, 8, (3, 3)), 4)
    assert workload_of(conv(8, 8, 3, 8, kind="depthwise"), 1, 4) == (LayerWorkload(1, 8, 8, 1, 1, (3, 3)), 8)
    assert workload_of(conv(64, 10, 1, 5, kind="linear"), 16, 4) == (LayerWorkload(80, 1, 1, 64, 10), 1)
    transposed = Layer("t", "conv_transpose", 16, 8, (16, 8, 2, 2), (4, 4), (8, 8), 1, (2, 2), (2, 2), (1, 1))
    assert workload_of(transposed, 2, 4) == (LayerWorkload(2, 4, 4, 16, 32), 1)
    one = Layer("c", "conv", 16, 8, (8, 16, 3), (20,), (18,), 1, (3,), (1,), (1,))
    assert workload_of(one, 2, 4) == (LayerWorkload(2, 1, 18, 16, 8, (1, 3)), 1)
