"""Compressed-tensors folders: packed by the library, read back by it, run by transformers in a fresh process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitfront
from quant_core.export.plain_file import read_tensors
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import compressed, compressed_weights
from tests.search.exporters.language import bundle, bundle_under

pytest.importorskip("compressed_tensors")
MIXED = (("*down_proj", "int2:group32"), ("*q_proj", "int8:channel"), ("*up_proj", "int4:group16"), ("*lm_head", "float"))


def test_transformers_gives_the_outputs_of_a_mixed_policy(quiet: None, tmp_path: Path) -> None:
    done = compressed.export(bundle("int3:channel", fixed=MIXED, correct=True), tmp_path)
    assert done.checks["stored_types"] == ", ".join(
        f"int{bits} in pack-quantized x {count}" for bits, count in ((2, 2), (3, 8), (4, 2), (8, 2))
    )
    assert (done.checks["top1_agreement"], done.checks["config_groups"]) == (1.0, 4)
    assert float(done.checks["largest_output_difference"]) <= 1e-5
    out = tmp_path / compressed.FOLDER
    config = json.loads((out / "config.json").read_text())
    assert (config["attention_bias"], config["mlp_bias"]) == (True, True)  # of bias correction
    assert config["quantization_config"]["ignore"] == ["model.embed_tokens", "lm_head"]
    tensors = read_tensors(out / "model.safetensors")
    packed = tensors["model.layers.0.mlp.down_proj.weight_packed"]
    assert (packed.dtype, tuple(packed.shape)) == (torch.int32, (64, 128 * 2 // 32))
    assert not any(name.endswith("down_proj.weight") for name in tensors)
    assert any("vLLM does not run this folder, transformers does" in note for note in done.notes)
    assert (out / "recipe.yaml").is_file()


@pytest.mark.parametrize("weight", ["nvfp4", "mxfp4"])
def test_minifloats_are_run_in_the_library_s_bfloat16(quiet: None, weight: str, tmp_path: Path) -> None:
    done = compressed.export(bundle(weight), tmp_path)
    assert done.checks["stored_types"] == f"{weight} in {weight}-pack-quantized x 15"
    assert float(done.checks["top1_agreement"]) >= 0.95
    assert any("was run in bfloat16" in note for note in done.notes)


def test_inputs_by_a_static_grid(quiet: None, tmp_path: Path) -> None:
    done = compressed.export(bundle("int8:channel", activation="int8:tensor:affine"), tmp_path)
    assert done.checks["top1_agreement"] == 1.0
    assert "model.layers.0.mlp.up_proj.input_scale" in read_tensors(tmp_path / compressed.FOLDER / "model.safetensors")


def test_other_values_or_bits_are_an_error(quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = compressed_weights.packed

    def other(place: Any) -> Any:
        parts = packed(place)
        return parts | {"weight_packed": parts["weight_packed"] ^ 1}

    monkeypatch.setattr(compressed, "packed", other)
    with pytest.raises(BitfrontError, match=r"layer 'model\.layers\.0\.self_attn\.q_proj' does not unpack to the values of int4:group32"):
        compressed.export(bundle("int4:group32"), tmp_path)
    arguments = compressed.arguments
    monkeypatch.setattr(compressed, "packed", packed)
    monkeypatch.setattr(compressed, "arguments", lambda spec, *, weight: arguments(spec, weight=weight) | {"num_bits": 8})
    with pytest.raises(BitfrontError, match=r"has 8 bits, int4:group32 was asked for"):
        compressed.export(bundle("int4:group32"), tmp_path / "b")


def test_bad_requests_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"layer 'lm_head' has a bias, for which LlamaForCausalLM has no place: bias correction made it"):
        compressed.export(bundle("int4:channel", correct=True), tmp_path)
    inputs = torch.randn(32, 64)
    data = [(inputs, torch.zeros(32, dtype=torch.int64))]
    own = bundle_under(bitfront.Task(nn.Sequential(nn.Linear(64, 4)).eval(), data, data, data, data), "int4:channel")
    with pytest.raises(InputError, match="hold networks of transformers, this is a Sequential; use safetensors, onnx or torchao"):
        compressed.export(own, tmp_path / "own")
    monkeypatch.setattr(compressed, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs compressed_tensors, which is not installed: pip install 'bitfront\[compressed-tensors\]'"):
        compressed.export(replace(own), tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight=int12:channel", "no format for weight int12:channel; use int1 to int8"),
        ("weight=kmeans4:tensor", "no format for weight kmeans4:tensor"),
        ("weight=int4:vector16", "no format for weight int4:vector16"),
        ("weight=int4:group32:affine", "zero points of affine weight int4:group32:affine; use a symmetric one, int4:group32"),
        ("weight=int4:group48", "blocks of 48 do not divide rows of 64"),
        ("weight=int8:channel,activation=int8:token", "holds no activation int8:token with int8:channel; use float, or int8:tensor"),
        ("weight=mxfp4,activation=int8:tensor", "holds no activation int8:tensor with mxfp4"),
        ("weight=float,activation=int8:tensor", "quantize the weight too"),
    ],
)
def test_unsupported_specs_are_named(text: str, message: str) -> None:
    assert message in compressed.fault(parse_layer_policy(text), 64)
