"""Every layer runs in every legal mode, with the output that the layer has."""

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from hw_models.profiling.onnx import FP32, NBITS, S8S8, U8S8, U8U8, XNOR, legal_modes, padding, runnable
from quant_core.spec.layer import Layer

LAYERS = {
    "conv": Layer("", "conv", 8, 12, (12, 8, 3, 3), (7, 9), (4, 5), 1, (3, 3), (2, 2), (1, 1)),
    "dilated": Layer("", "conv", 8, 12, (12, 8, 3, 2), (9, 9), (5, 8), 1, (3, 2), (1, 1), (2, 1)),
    "grouped": Layer("", "conv", 8, 12, (12, 4, 3, 3), (7, 7), (7, 7), 1, (3, 3), (1, 1), (1, 1), 2),
    "one dimension": Layer("", "conv", 3, 8, (8, 3, 5), (20,), (20,), 1, (5,), (1,), (1,)),
    "three dimensions": Layer("", "conv", 3, 8, (8, 3, 3, 3, 3), (4, 4, 4), (2, 2, 2), 1, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "depthwise": Layer("", "depthwise", 8, 8, (8, 1, 3, 3), (6, 6), (6, 6), 1, (3, 3), (1, 1), (1, 1), 8),
    "linear": Layer("", "linear", 70, 12, (12, 70), (5,), (5,), 1),
    "transposed weight": Layer("", "linear", 64, 12, (64, 12), (1,), (1,), 1, channel_axis=1),
    "conv_transpose": Layer("", "conv_transpose", 8, 4, (8, 4, 2, 2), (5, 3), (10, 6), 1, (2, 2), (2, 2), (1, 1), channel_axis=1),
    "embedding": Layer("", "embedding", 8, 8, (50, 8), (5,), (5,), 0),
}
DTYPES = {FP32: np.float32, U8S8: np.uint8, U8U8: np.uint8, S8S8: np.int8, XNOR: np.int32, **dict.fromkeys(NBITS, np.float32)}


def output_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    if layer.kind == "linear":
        return batch * layer.in_size[0], layer.out_channels
    if layer.kind == "embedding":
        return batch, *layer.in_size, layer.out_channels
    return batch, layer.out_channels, *layer.out_size


@pytest.mark.parametrize("name", LAYERS)
def test_every_legal_mode_gives_the_output_of_the_layer(name: str) -> None:
    layer = LAYERS[name]
    for mode in legal_modes(layer):
        call = runnable(layer, mode, 2, 1)
        assert call is not None, mode
        outputs = call()
        array = outputs[0] if isinstance(outputs, list) else outputs
        assert isinstance(array, np.ndarray)
        assert array.shape == output_shape(layer, 2), mode
        assert array.dtype == DTYPES[mode], mode


def test_the_modes_of_each_kind() -> None:
    assert {name: len(legal_modes(layer)) for name, layer in LAYERS.items()} == {
        "conv": 5, "dilated": 5, "grouped": 4, "one dimension": 4, "three dimensions": 4, "depthwise": 4,
        "linear": 8, "transposed weight": 8, "conv_transpose": 1, "embedding": 2,
    }  # fmt: skip


def test_a_mode_without_a_kernel_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise errors.NotImplemented("Could not find an implementation for MatMulNBits")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    assert runnable(LAYERS["linear"], NBITS[2], 1, 1) is None


def test_a_layer_that_contradicts_itself_is_an_error_and_no_missing_kernel() -> None:
    odd = Layer("", "conv", 8, 12, (12, 5, 3, 3), (7, 7), (7, 7), 1, (3, 3), (1, 1), (1, 1))
    call = runnable(odd, U8S8, 1, 1)
    assert call is not None
    with pytest.raises(errors.Fail, match="C: 8 kernel channels: 5"):
        call()


@pytest.mark.parametrize("name", ["conv", "dilated", "grouped", "one dimension", "depthwise"])
def test_padding_gives_the_output_size(name: str) -> None:
    layer = LAYERS[name]
    before, after = padding(layer)
    for axis, size in enumerate(layer.in_size):
        reach = (layer.kernel[axis] - 1) * layer.dilation[axis] + 1
        assert (size + before[axis] + after[axis] - reach) // layer.stride[axis] + 1 == layer.out_size[axis]
        assert 0 <= after[axis] - before[axis] <= 1
