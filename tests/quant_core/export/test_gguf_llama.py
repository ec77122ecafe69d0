"""What llama.cpp must know of a network, against transformers' own functions."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quant_core.export import gguf_llama
from quant_core.util.errors import InputError


def test_divisors_of_llama_3_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 64}
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=512, rope_parameters=rope)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    divisors = gguf_llama.extra_tensors(config)["rope_freqs.weight"]
    plain = 1.0 / 500000.0 ** (np.arange(0, 32, 2) / 32)
    np.testing.assert_allclose(plain / divisors, wanted.numpy(), rtol=1e-5)
    assert gguf_llama.fields(config, "llama")["llama.rope.freq_base"] == 500000.0


def test_linear_scaling_is_written() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    fields = gguf_llama.fields(config, "llama")
    assert (fields["llama.rope.scaling.type"], fields["llama.rope.scaling.factor"]) == ("linear", 4.0)


def test_names_are_those_of_the_library() -> None:
    pytest.importorskip("gguf")
    config: Any = SimpleNamespace(num_hidden_layers=2)
    names = ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.bias"]
    assert list(gguf_llama.tensor_names(dict.fromkeys(names), config, "llama").values()) == [
        "token_embd.weight",
        "blk.1.ffn_down.weight",
        "blk.0.attn_q.bias",
    ]
    with pytest.raises(InputError, match=r"llama\.cpp's llama has no tensor for 'adapter\.weight'"):
        gguf_llama.tensor_names({"adapter.weight": 0}, config, "llama")
