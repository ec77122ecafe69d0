"""Files of LiteRT: outputs against the simulation, notes, refusals, the same bytes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.export.litert import inspection
from quant_core.export.litert.program import float_model, program
from quant_core.util.errors import InputError
from tests.quant_core.export import small_networks
from tests.quant_core.export.litert.runs import IMAGES, apart, outputs, quantized

ROWS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rounding", [True, False])
@pytest.mark.parametrize("kind", ["mixed", "texts", "rows"])
@pytest.mark.parametrize("text", ["weight=int8:channel,activation=int8:tensor", "weight=int4:channel", "weight=float"])
def test_networks_of_several_kinds(kind: str, text: str, rounding: bool) -> None:
    network = small_networks.network(kind, text, ROWS)
    assert apart(network, network.example, rounding=rounding) <= (0.02 if rounding else 2e-3)


@pytest.mark.parametrize("kind", ["mixed", "texts", "rows"])
def test_codes_of_two_bits_computed_in_float_are_the_simulation(kind: str) -> None:
    network = small_networks.network(kind, "weight=int2:channel,activation=int4:tensor", ROWS)
    assert apart(network, network.example, rounding=False, integers=False) <= 1e-5
    assert {operation.code for operation in program(network, rounding=False, integers=False).model.operations} >= {"DEQUANTIZE"}


def test_an_embedding_and_the_product_that_shares_its_weight_have_one_tensor() -> None:
    pytest.importorskip("ai_edge_litert")
    made = program(small_networks.network("texts", "weight=int4:channel", ROWS))
    coded = [tensor.name for tensor in made.model.tensors if tensor.kind == "INT4"]
    assert coded == ["embed.weight"]
    assert made.payload == 20 * 8 + 80


@pytest.mark.parametrize("text", ["weight=int2:channel", "weight=int5:channel,activation=int8:tensor"])
def test_a_shared_weight_is_stored_as_both_its_readers_take_it(tmp_path: Path, text: str) -> None:
    network = small_networks.network("texts", text, ROWS)
    assert apart(network, network.example) <= 0.02
    program(network).save(tmp_path / "model.tflite")
    assert inspection.stored_types(tmp_path / "model.tflite", network.stored) == ("int4 x 2" if "int2" in text else "int8 x 2")


def test_codes_and_values_in_wider_types_are_noted() -> None:
    pytest.importorskip("ai_edge_litert")
    made = program(small_networks.network("rows", "weight=int3:channel", ROWS))
    assert made.notes == ("3-bit int weights are stored in 4 bits: 0, 2",)
    assert made.extra == 64 * 69 / 8
    network = small_networks.network("rows", "weight=mxfp4", ROWS)
    with pytest.raises(InputError, match=r"^layer '0': LiteRT reads no mxfp4; .* \(and 1 more layer\)\. --allow-dequantized stores"):
        program(network)
    made = program(network, allow_dequantized=True)
    assert made.notes == ("mxfp4 weights are stored dequantized, in float32: 0, 2",)
    assert apart(network, ROWS, allow_dequantized=True) <= 1e-5


def test_two_files_of_one_policy_are_the_same_bytes() -> None:
    pytest.importorskip("ai_edge_litert")
    one, two = (program(small_networks.network("mixed", "weight=int8:channel,activation=int8:tensor", ROWS)) for _ in range(2))
    assert one.data == two.data


class Idle(nn.Module):
    """A network that does not return what one of its layers computes."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.head = nn.Linear(64, 4), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return self.head(x)


def test_a_layer_whose_output_nothing_reads_is_named() -> None:
    pytest.importorskip("ai_edge_litert")
    made = program(quantized(Idle(), ROWS, "weight=int8:channel"))
    assert made.unread == ("idle",)
    assert made.notes == ("nothing reads the output of these layers, so they are not in the file: idle",)


class Shared(nn.Module):
    """A quantized value that a pool, a concatenation and a sum read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(nn.functional.max_pool2d(torch.cat([self.second(x) + x, x], 1), 3, 2, 1))


@pytest.mark.parametrize("activation", ["int8:tensor", "int6:tensor:affine"])
def test_codes_pass_pools_and_concatenations(activation: str) -> None:
    assert apart(quantized(Shared(), IMAGES, f"weight=int8:channel,activation={activation}"), IMAGES) <= 0.02


def test_networks_that_no_file_holds_are_one_sentence() -> None:
    pytest.importorskip("ai_edge_litert")
    network = small_networks.network("rows", "weight=int8:channel", ROWS)
    network.base.register_parameter("wide", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    with pytest.raises(InputError, match=r"compute in float32, this network has torch\.float64; search and export model\.float\(\)\.$"):
        program(network)
    with pytest.raises(InputError, match=r"compute in float32, this network has torch\.float16; search and export model\.float\(\)\.$"):
        float_model(nn.Linear(64, 2).half(), ROWS)


def test_the_inputs_and_outputs_are_those_of_the_network() -> None:
    network = quantized(nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU()), IMAGES, "weight=int8:channel")
    pytest.importorskip("ai_edge_litert")
    made = program(network)
    assert [made.model.tensors[place].shape for place in made.model.inputs.values()] == [(1, 6, 9, 10)]
    assert (list(made.model.inputs), list(made.model.outputs)) == (["input"], ["output"])
    assert outputs(made.data, IMAGES).shape == (1, 4, 7, 8)
