"""Layers in float, by int8 between two quantizers, and with float inputs, against torch and the simulation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant_core.export.litert import flatbuffer
from quant_core.export.litert.program import float_model, program
from quant_core.util.errors import InputError
from tests.quant_core.export.litert.runs import IMAGES, LINES, ROWS, TOKENS, Of, apart, quantized, same

LAYERS = (
    (nn.Conv2d(6, 4, 3, stride=2, padding=1), IMAGES),
    (nn.Conv2d(6, 4, 3, padding="same"), IMAGES),
    (nn.Conv2d(6, 4, 4, stride=3, padding=2), IMAGES),
    (nn.Conv2d(6, 4, 3, dilation=2, padding=2), IMAGES),
    (nn.Conv2d(6, 4, (1, 5), padding=(0, 2), stride=(2, 1)), IMAGES),
    (nn.Conv2d(6, 9, 3, groups=3), IMAGES),
    (nn.Conv2d(6, 12, 3, groups=6, padding=1, stride=2), IMAGES),
    (nn.Conv2d(6, 6, 3, groups=6, dilation=2), IMAGES),
    (nn.Conv2d(6, 4, 1, bias=False), IMAGES),
    (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), IMAGES),
    (nn.Conv1d(6, 4, 3, padding=1, stride=2), LINES),
    (nn.Conv1d(6, 6, 3, groups=6), LINES),
    (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), IMAGES),
    (nn.ConvTranspose2d(6, 4, (2, 3), stride=(2, 1)), IMAGES),
    (nn.ConvTranspose1d(6, 4, 3, stride=2), LINES),
    (nn.Linear(12, 7), ROWS),
    (nn.Linear(12, 7, bias=False), TOKENS),
    (nn.Linear(10, 7), IMAGES),
)
PRODUCTS = {
    "attention scores": lambda x: x @ x.transpose(1, 2),
    "features": lambda x: x.transpose(1, 2) @ x,
    "of other ranks": lambda x: x[:, None] @ x.transpose(1, 2)[:, None],
    "causal attention": lambda x: functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True),
    "a sum and a product": lambda x: torch.baddbmm(x[:, :, :5], x, x.transpose(1, 2)),
}


@pytest.mark.parametrize(("layer", "x"), LAYERS, ids=repr)
def test_float_layers(layer: nn.Module, x: Tensor) -> None:
    same(layer, x)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_activations(name: str) -> None:
    same(Of(PRODUCTS[name]), TOKENS)


def test_a_transformers_layer() -> None:
    same(nn.TransformerEncoderLayer(12, 3, 16, batch_first=True), TOKENS)


class Twice(nn.Module):
    """A layer, an activation function, and a layer behind it, so that the first one lies between two quantizers."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, width = layer, layer(x).shape[-1]
            self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu6(self.first(x)))


@pytest.mark.parametrize(
    "text", ["weight=int8:channel,activation=int8:tensor", "weight=int4:channel,activation=int8:tensor", "weight=int8:tensor"]
)
@pytest.mark.parametrize(("layer", "x"), LAYERS, ids=repr)
def test_quantized_layers(layer: nn.Module, x: Tensor, text: str) -> None:
    assert apart(quantized(Twice(layer, x), x, text), x) <= 0.02


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("activation", ["float", "int8:tensor", "int5:tensor", "int3:tensor:affine", "int8:token"])
def test_codes_of_all_bits_and_inputs(bits: int, activation: str) -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))
    assert apart(quantized(model, ROWS, f"weight=int{bits}:channel,activation={activation}"), ROWS) <= 0.03


def test_a_layer_between_two_quantizers_is_int8_and_its_activation_function_is_gone() -> None:
    pytest.importorskip("ai_edge_litert")
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    kinds = [
        [operation.code for operation in program(quantized(model, IMAGES, text), rounding=rounding).model.operations]
        for text, rounding in (
            ("weight=int8:channel,activation=int8:tensor", True),
            ("weight=int8:channel", True),
            ("weight=int8:channel,activation=int8:tensor", False),
        )
    ]
    assert kinds[0] == ["QUANTIZE", "TRANSPOSE", "CONV_2D", "CONV_2D", "DEQUANTIZE", "CONV_2D", "TRANSPOSE"]
    assert kinds[1] == ["TRANSPOSE", "CONV_2D", "CONV_2D", "CONV_2D", "TRANSPOSE"]
    assert kinds[2] == [*kinds[0][:4], "DEQUANTIZE", *kinds[0][4:]], "the last layer multiplies by floats"


def test_depthwise_convolutions_of_float_inputs_multiply_by_floats() -> None:
    pytest.importorskip("ai_edge_litert")
    network = quantized(nn.Sequential(nn.Conv2d(6, 6, 3, groups=6)), IMAGES, "weight=int8:channel")
    assert [operation.code for operation in program(network).model.operations] == [
        "TRANSPOSE",
        "DEQUANTIZE",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE",
    ]
    assert apart(network, IMAGES) <= 1e-5


def test_a_channel_that_is_its_bias_and_next_to_no_weights_stays_int8() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        model[0].weight[1] *= 1e-10
        model[0].bias[1] = 0.7
    network = quantized(model, IMAGES, "weight=int8:channel,activation=int8:tensor")
    assert apart(network, IMAGES) <= 0.02
    made = program(network)
    assert flatbuffer.serialized(made.model) == made.data
    assert made.notes == ("channels whose bias is too large for int32 in steps of input scale x weight scale have coarser codes: 0 (1)",)
    assert [made.model.tensors[operation.outputs[0]].kind for operation in made.model.operations if operation.code == "CONV_2D"] == [
        "INT8",
        "FLOAT32",
    ]


def test_a_channel_of_zeros_keeps_its_bias_and_stays_int8() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with torch.no_grad():
        model[0].weight[1] = 0.0
        model[0].bias[1] = 0.3712
    network = quantized(model, IMAGES, "weight=int8:channel,activation=int8:tensor")
    assert apart(network, IMAGES) <= 0.01
    made = program(network).model
    assert [made.tensors[operation.outputs[0]].kind for operation in made.operations if operation.code == "CONV_2D"] == ["INT8", "FLOAT32"]


@pytest.mark.parametrize(
    ("of", "x", "message"),
    [
        (nn.Conv3d(2, 3, 2), torch.rand(2, 2, 3, 4, 5), r"its windows run over one or two axes, not 3 \(ONNX's Conv\)"),
        (
            nn.ConvTranspose2d(6, 4, 3, dilation=2),
            IMAGES,
            r"its transposed convolutions have one group and no dilation \(ONNX's ConvTranspose\)",
        ),
        (
            Of(lambda x: torch.addmm(torch.ones(3), x, torch.ones(12, 3), alpha=0.5)),
            ROWS,
            r"constant matrices, not scaled and not transposed",
        ),
        (nn.LSTM(12, 4, batch_first=True), TOKENS, r"it has no operator for ONNX's LSTM"),
    ],
)
def test_what_litert_lacks_is_one_sentence(of: nn.Module, x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=rf"^LiteRT cannot represent this network: .*{message}.*\. Use onnx or openvino\.$"):
        float_model(of.eval(), x)
