"""What llama.cpp must know of a transformers network: metadata, tensor names, and the order of rows of queries and keys.

The networks are those whose files llama.cpp's own converter writes in this way (conversion/llama.py and conversion/qwen.py of
https://github.com/ggml-org/llama.cpp): a decoder of attention with rotary embedding, and a gated MLP with SiLU.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.gguf_file import Field, library
from quant_core.util.errors import InputError

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' `model_type` -> llama.cpp's architecture."""
BIASES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj"),
    "qwen3": (),
}
"""Architecture -> the layers whose bias llama.cpp reads (src/models of its repository)."""
PERMUTED = ("llama",)
"""Architectures whose rotary embedding turns neighbours, (0, 1), (2, 3), ...; transformers turns (0, d/2), (1, d/2 + 1), ..."""


def architecture(config: Any) -> str:
    """Return llama.cpp's name of the architecture of a transformers configuration, or "" where this module does not write it.

    Raises:
        InputError: a variant of one of them that llama.cpp's architecture does not compute.
    """
    arch = ARCHITECTURES.get(str(getattr(config, "model_type", "")), "")
    if arch and config.hidden_act != "silu":
        raise InputError(f"llama.cpp's {arch} has the activation function silu, this network {config.hidden_act}; use safetensors or onnx.")
    if arch and _rope(config).get("rope_type", "default") not in ("default", "linear", "llama3"):
        raise InputError(
            f"rotary embedding of type {_rope(config)['rope_type']!r} is not written to GGUF; default, linear and llama3 are. "
            "Use llama.cpp's own convert_hf_to_gguf.py for this network."
        )
    return arch


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})


def head_size(config: Any) -> int:
    """Return the elements of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def fields(config: Any, arch: str) -> dict[str, Field]:
    """Return the metadata of an architecture, less its name and the vocabulary."""
    rope, size = _rope(config), head_size(config)
    written: dict[str, Field] = {
        f"{arch}.vocab_size": int(config.vocab_size),
        f"{arch}.context_length": int(config.max_position_embeddings),
        f"{arch}.embedding_length": int(config.hidden_size),
        f"{arch}.block_count": int(config.num_hidden_layers),
        f"{arch}.feed_forward_length": int(config.intermediate_size),
        f"{arch}.attention.head_count": int(config.num_attention_heads),
        f"{arch}.attention.head_count_kv": int(config.num_key_value_heads),
        f"{arch}.attention.key_length": size,
        f"{arch}.attention.value_length": size,
        f"{arch}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{arch}.rope.dimension_count": size,
        f"{arch}.rope.freq_base": float(rope.get("rope_theta", getattr(config, "rope_theta", None) or 10000.0)),
    }
    if rope.get("rope_type") == "linear":
        written |= {f"{arch}.rope.scaling.type": "linear", f"{arch}.rope.scaling.factor": float(rope["factor"])}
    return written


def extra_tensors(config: Any) -> dict[str, NDArray[np.float32]]:
    """Return the divisors of the rotary frequencies of Llama 3 (transformers' `_compute_llama3_parameters`), [d / 2]; of others nothing."""
    rope, size = _rope(config), head_size(config)
    if rope.get("rope_type") != "llama3":
        return {}
    base, factor = float(rope["rope_theta"]), float(rope["factor"])
    low, high, old = float(rope["low_freq_factor"]), float(rope["high_freq_factor"]), float(rope["original_max_position_embeddings"])
    divisors = []
    for place in range(0, size, 2):
        wavelength = 2 * math.pi * base ** (place / size)
        smooth = min(max((old / wavelength - low) / (high - low), 0.0), 1.0)
        divisors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return {"rope_freqs.weight": np.array(divisors, dtype=np.float32)}


def tensor_names(names: Mapping[str, object], config: Any, arch: str) -> dict[str, str]:
    """Return transformers' name -> GGUF's name, by the library's own map.

    Raises:
        InputError: the map has no name for a tensor.
    """
    gguf = library()
    table = gguf.get_tensor_name_map(next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), config.num_hidden_layers)
    written = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
    unknown = [name for name, stored in written.items() if stored is None]
    if unknown:
        raise InputError(f"llama.cpp's {arch} has no tensor for {unknown[0]!r} of this network; use safetensors or onnx.")
    return {name: str(stored) for name, stored in written.items()}


def rows(name: str, count: int, config: Any, arch: str) -> NDArray[np.int64] | None:
    """Return the order in which the rows of a tensor are written, [count], or None where it is their own.

    The rows of queries and keys of Llama go from halves to neighbours, per head.
    """
    module = name.rpartition(".")[0].rpartition(".")[2]
    if arch not in PERMUTED or module not in ("q_proj", "k_proj"):
        return None
    heads = config.num_attention_heads if module == "q_proj" else config.num_key_value_heads
    return np.arange(count).reshape(heads, 2, count // heads // 2).swapaxes(1, 2).reshape(count)
