"""GGUF files of small networks: read back, run by llama.cpp where it is installed, refused in one sentence."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitfront
from quant_core.export import gguf_file, llama_cpp
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from search.exporters import gguf
from search.tasks.tokenizer import Tokenizer
from tests.search.exporters.language import Logits, bundle, bundle_under, language_model, task

pytest.importorskip("gguf")


@pytest.mark.parametrize(("family", "weight"), [("Llama", "int4:group32"), ("Qwen2", "int5:group32"), ("Qwen3", "mxfp4")])
def test_llama_cpp_gives_the_outputs_of_the_policy(family: str, weight: str, tmp_path: Path) -> None:
    done = gguf.export(bundle(weight, family), tmp_path)
    kind = {"int4:group32": "Q4_0", "int5:group32": "Q5_0", "mxfp4": "MXFP4"}[weight]
    assert f"{kind} x 16" in str(done.checks["stored_types"])
    assert done.checks["architecture"] == family.lower()
    if llama_cpp.engine():
        assert str(done.checks["runtime"]).startswith("llama.cpp")
        assert float(done.checks["top1_agreement"]) >= 0.95
        assert done.checks["decoded_largest_output_difference"] == 0.0
    fields, tensors = gguf_file.read(tmp_path / gguf.FILE)
    assert fields[f"{family.lower()}.attention.head_count_kv"] == 2
    assert fields["tokenizer.ggml.model"] == "no_vocab"
    weight_of = bundle(weight, family).network.plain.get_parameter("model.model.layers.1.self_attn.q_proj.weight").numpy()
    order = np.arange(64).reshape(4, 2, 8).swapaxes(1, 2).reshape(64) if family == "Llama" else np.arange(len(weight_of))
    np.testing.assert_array_equal(tensors["blk.1.attn_q.weight"][1], weight_of[order])


def test_without_llama_cpp_the_file_is_decoded_and_a_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "ENGINES", {})
    done = gguf.export(bundle("int8:group32"), tmp_path)
    assert (done.checks["top1_agreement"], done.checks["largest_output_difference"]) == (1.0, 0.0)
    assert any("llama.cpp was not run: pip install" in note for note in done.notes)


def test_wrong_metadata_are_seen_by_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not llama_cpp.engine():
        pytest.skip("no binding of llama.cpp is installed")
    monkeypatch.setattr(gguf.gguf_llama, "PERMUTED", ())
    with pytest.raises(BitfrontError, match=r"llama\.cpp does not give the outputs that the search measured: top-1 agrees on"):
        gguf.export(bundle("int4:group32"), tmp_path)


def test_an_ignored_type_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = gguf_file.write

    def other(path: Path, arch: str, fields: Any, tensors: Any) -> None:
        name = "blk.0.attn_q.weight"
        values = gguf_file.dequantized(tensors[name].data, tensors[name].kind)
        written(path, arch, fields, {**tensors, name: gguf_file.Stored("F32", values.shape, values)})

    monkeypatch.setattr(gguf.gguf_file, "write", other)
    with pytest.raises(BitfrontError, match=r"tensor 'blk\.0\.attn_q\.weight' is stored as F32, Q4_0 was asked for"):
        gguf.export(bundle("int4:group32"), tmp_path)


def test_other_values_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gguf.gguf_types.packed

    def flipped(encoded: Any, spec: Any, **options: Any) -> Any:
        kind, data = packed(encoded, spec, **options)
        return kind, data ^ np.uint8(16)

    monkeypatch.setattr(gguf.gguf_types, "packed", flipped)
    with pytest.raises(BitfrontError, match="does not decode to the values of the policy"):
        gguf.export(bundle("int4:group32"), tmp_path)


def test_nvfp4_has_the_scale_of_its_tensor_beside(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads no scale of an nvfp4 embedding; use mxfp4 or int8:group32"):
        gguf.export(bundle("nvfp4"), tmp_path)
    done = gguf.export(bundle("nvfp4", fixed=(("*embed_tokens", "int8:group32"),)), tmp_path)
    assert "NVFP4 x 15" in str(done.checks["stored_types"])
    assert "blk.0.attn_q.scale" in gguf_file.read(tmp_path / gguf.FILE)[1]


def test_a_vocabulary_of_pieces_and_a_list_of_types(tmp_path: Path) -> None:
    pieces = (b"<unk>", b"<s>", b"</s>", *(bytes([byte]) for byte in range(256)), *(b" %c" % byte for byte in range(97, 110)))
    model = Logits(language_model(vocab_size=272)).eval()
    judged = replace(task(model), tokenizer=Tokenizer(pieces, tuple(-float(i) for i in range(272))))
    gguf.export(bundle_under(judged, "int4:group32", fixed={"*down_proj": "float"}), tmp_path)
    fields, _ = gguf_file.read(tmp_path / gguf.FILE)
    assert len(fields["tokenizer.ggml.tokens"]) == 272
    assert (fields["tokenizer.ggml.tokens"][3], fields["tokenizer.ggml.tokens"][259]) == ("<0x00>", "▁a")
    lines = (tmp_path / gguf.TYPES).read_text().splitlines()
    assert r"^blk\.0\.attn_q\.weight$=q4_0" in lines
    assert r"^blk\.1\.ffn_down\.weight$=f32" in lines


def test_scales_in_float32_are_rounded_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"those of int4:channel float32; use .* --round-scales \(and 15 more"):
        gguf.export(bundle("int4:channel"), tmp_path)
    done = gguf.export(replace(bundle("int4:channel"), round_scales=True), tmp_path)
    assert any(re.search(r"rounded to float16 \(weights change by up to \d\.\de-0\d of the largest\)", note) for note in done.notes)
    assert "Q4_0 x 16" in str(done.checks["stored_types"])


def test_what_has_no_type_may_be_stored_dequantized(tmp_path: Path) -> None:
    done = gguf.export(replace(bundle("kmeans3:channel"), allow_dequantized=True), tmp_path)
    assert any("weights are stored dequantized, in float32" in note for note in done.notes)
    assert done.checks["stored_types"] == "F32 x 21"


def test_a_bias_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layer 'model\.lm_head' has a bias, for which llama\.cpp's llama has no place: bias correction"):
        gguf.export(bundle("int4:group32", correct=True), tmp_path)
    assert not list(tmp_path.iterdir())
    done = gguf.export(bundle("int4:group32", correct=True, fixed=(("*lm_head", "float"),)), tmp_path)
    assert "blk.0.attn_q.bias" in gguf_file.read(tmp_path / gguf.FILE)[1]
    assert float(done.checks["top1_agreement"]) >= 0.95


def test_another_network_stands_under_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    inputs = torch.randn(64, 64)
    data = [(inputs, model(inputs).argmax(dim=1))]
    judged = bitfront.Task(model, data, data, data, data)
    done = gguf.export(bundle_under(judged, "int8:group32", correct=True), tmp_path)
    fields, tensors = gguf_file.read(tmp_path / gguf.FILE)
    assert set(tensors) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert (fields["general.architecture"], tensors["0.weight"][0]) == ("Sequential", "Q8_0")
    assert done.checks["largest_output_difference"] == 0.0
    assert any("tensors stand under the names of the network" in note for note in done.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_act": "gelu"}, "llama.cpp's llama has the activation function silu, this network gelu"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rotary embedding of type 'dynamic' is not written to GGUF; default, linear and llama3 are",
        ),
    ],
)
def test_variants_of_the_architecture_that_llama_cpp_does_not_compute(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    judged = task(Logits(language_model(**options)).eval())
    with pytest.raises(InputError, match=re.escape(message)):
        gguf.export(bundle_under(judged, "int4:group32"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "weight=int4:group32,activation=int8:tensor",
            "llama.cpp rounds inputs by itself; use activation float",
        ),
        ("weight=int12:channel:fp16", "GGUF has no type for int12:channel:fp16"),
        ("weight=int4:group48", "groups of 48 are no multiple of GGUF's blocks"),
    ],
)
def test_unsupported_policies_are_named(text: str, message: str) -> None:
    layer = bundle("int4:group32").layers[1]
    assert message in gguf.refusal(layer, parse_layer_policy(text))
