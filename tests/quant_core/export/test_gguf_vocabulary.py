"""Vocabularies of GGUF against llama.cpp's tokenizers, where a binding is installed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant_core.export import gguf_file, gguf_vocabulary
from quant_core.export.llama_cpp import engine
from quant_core.util.errors import InputError

TEXTS = ["low lower lowest", "Hello — wörld!  two  spaces", "x = 12345;\nreturn"]


def byte_pairs(kind: str) -> Any:
    """Return a small trained tokenizer of GPT-2's or of Llama 2's class."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    corpus = ["low lower lowest newer newest wide wider", "hello world return x = 12345"] * 4
    special = ["<unk>", "<s>", "</s>"]
    if kind == "gpt2":
        made = tokenizers.Tokenizer(tokenizers.models.BPE())
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    else:
        made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        normalizers = tokenizers.normalizers
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=special)
    made.train_from_iterator(corpus, trainer)
    if kind != "gpt2":  # a token of a byte is no special one
        data = json.loads(made.to_str())
        data["added_tokens"] = data["added_tokens"][:3]
        made = tokenizers.Tokenizer.from_str(json.dumps(data))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_llama_cpp_reads_the_same_tokens(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    tokenizer = byte_pairs(kind)
    fields, notes = gguf_vocabulary.from_tokenizer(tokenizer, 330)
    assert (fields["tokenizer.ggml.model"], notes) == (kind, ())
    assert fields["tokenizer.ggml.tokens"][-1].startswith("[PAD")  # type: ignore[index, union-attr]
    if engine() != "cyllama":
        pytest.skip("cyllama is not installed")
    sizes = {"vocab_size": 330, "context_length": 8, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32}
    sizes |= {"attention.head_count": 1, "attention.layer_norm_rms_epsilon": 1e-5}
    shapes = {"token_embd": (330, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.{name}": (32, 32) for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    tensors = {f"{name}.weight": gguf_file.Stored("F32", shape, np.zeros(shape, dtype=np.float32)) for name, shape in shapes.items()}
    gguf_file.write(tmp_path / "v.gguf", "llama", fields | {f"llama.{name}": value for name, value in sizes.items()}, tensors)
    script = (
        "import sys; from cyllama.llama import llama_cpp as lib; lib.disable_logging(); "
        "model = lib.LlamaModel(sys.argv[1], verbose=False); "
        "print([model.get_vocab().tokenize(text, False, False) for text in sys.argv[2:]])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "v.gguf"), *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str([tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]), done.stderr[-500:]


def test_another_kind_of_tokenizer_is_refused_by_name() -> None:
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    with pytest.raises(InputError, match="the tokenizer is a WordLevel; GGUF is written for byte-pair encoding"):
        gguf_vocabulary.from_tokenizer(made, 8)
    with pytest.raises(InputError, match="has 297 tokens, the network 8: it is of another network"):
        gguf_vocabulary.from_tokenizer(byte_pairs("gpt2"), 8)
