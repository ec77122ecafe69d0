"""Files of LiteRT read back: types, codes, kernels; and run in a fresh process."""

import dataclasses
from pathlib import Path

import pytest
import torch

from quant_core.export.litert import flatbuffer, inspection
from quant_core.export.litert.program import float_program, program
from quant_core.export.stored import Quantized
from quant_core.util.errors import BitfrontError
from tests.quant_core.export import small_networks

ROWS = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


def written(kind: str, text: str, folder: Path) -> tuple[Quantized, Path]:
    pytest.importorskip("ai_edge_litert")
    network, path = small_networks.network(kind, text, ROWS), folder / "model.tflite"
    program(network).save(path)
    return network, path


def kernels_of(path: Path, network: Quantized) -> dict[str, str]:
    return {row.layer: row.kernel for row in inspection.kernels(path, [layer.layer.name for layer in network.stored]).layers}


def test_kernels_of_a_network_with_a_sum(tmp_path: Path) -> None:
    network, path = written("mixed", "weight=int8:channel,activation=int8:tensor", tmp_path)
    assert inspection.stored_types(path, network.stored) == "int8 x 5"
    packed = "8-bit weights"
    assert kernels_of(path, network) == {"stem.0": packed, "depthwise": "float32", "shared": "int8", "up": packed, "head": packed}
    assert inspection.kernels(path, ["stem.0"]).checks == {"integer_convolutions": "3 of 4", "integer_linears": "1 of 1"}
    assert [row.layer for row in inspection.kernels(path, ["stem.0"]).layers] == ["stem.0", "depthwise", "shared", "up", "head"]


@pytest.mark.parametrize(
    ("kind", "text", "types", "kernels"),
    [
        ("rows", "weight=int4:channel,activation=int8:tensor", "int4 x 2", ["int8", "4-bit weights"]),
        ("rows", "weight=int2:channel", "int2 x 2", ["2-bit weights", "2-bit weights"]),
        ("rows", "weight=float", "fp32", ["float32", "float32"]),
        ("texts", "weight=int2:channel", "int4 x 2", ["4-bit weights", "4-bit weights"]),
        ("texts", "weight=float", "fp32", ["float32", "float32"]),
    ],
)
def test_types_and_kernels(tmp_path: Path, kind: str, text: str, types: str, kernels: list[str]) -> None:
    network, path = written(kind, text, tmp_path)
    assert inspection.stored_types(path, network.stored) == types
    assert list(kernels_of(path, network).values()) == kernels


def test_other_codes_than_the_policys_are_an_error(tmp_path: Path) -> None:
    network, path = written("rows", "weight=int4:channel", tmp_path)
    with pytest.raises(BitfrontError, match=r"^layer '0': int8:channel is stored as int4, int8 is due \(and 1 more layer\)\. Nothing was"):
        inspection.stored_types(path, small_networks.network("rows", "weight=int8:channel", ROWS).stored)
    model = flatbuffer.read(path)
    for i, tensor in enumerate(model.tensors):
        if tensor.name == "2.weight":
            assert tensor.data is not None
            model.tensors[i] = dataclasses.replace(tensor, data=tensor.data ^ 1)
        if tensor.name == "0.weight":
            model.tensors[i] = dataclasses.replace(tensor, name="other")
    path.write_bytes(flatbuffer.serialized(model))
    with pytest.raises(BitfrontError, match=r"^layer '0': its codes are not in the file \(and 1 more layer\)"):
        inspection.stored_types(path, network.stored)
    with pytest.raises(BitfrontError, match=r"^layer '2': the codes or scales in int4 are not those of int4:channel\. Nothing was written"):
        inspection.stored_types(path, network.stored[1:])


def test_a_file_runs_in_a_fresh_process(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    model = torch.nn.Sequential(torch.nn.Linear(64, 5)).eval()
    float_program(model, ROWS).save(tmp_path / "float.tflite")
    output = inspection.outputs(tmp_path / "float.tflite", {"input": ROWS[:1].numpy()})
    assert abs(output - model(ROWS[:1]).detach().numpy()).max() < 1e-5
    (tmp_path / "other.tflite").write_bytes(b"none at all")
    with pytest.raises(BitfrontError, match=r"^litert fails in a fresh process: .*The model is not a valid Flatbuffer buffer"):
        inspection.outputs(tmp_path / "other.tflite", {"input": ROWS[:1].numpy()})
    with pytest.raises(BitfrontError, match=r"other\.tflite is no file of LiteRT\.$"):
        inspection.stored_types(tmp_path / "other.tflite", ())
