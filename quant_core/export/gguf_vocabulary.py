"""`tokenizer.ggml.*` of a GGUF file: the vocabulary of a tokenizer of transformers, or of a table of pieces with scores."""

import json
from collections.abc import Sequence
from typing import Any

from quant_core.export.gguf_file import Field
from quant_core.util.errors import InputError

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""The numbers of `gguf.TokenType`."""
PRETOKENIZERS = {
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|": "llama-bpe",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|": "qwen2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+": "gpt-2",
}
"""A part of the regular expression that splits a text -> llama.cpp's name of it (src/llama-vocab.cpp)."""


def no_vocabulary() -> dict[str, Field]:
    """Return the metadata of a file without a vocabulary: llama.cpp takes token numbers only."""
    return {"tokenizer.ggml.model": "no_vocab"}


def from_pieces(pieces: Sequence[bytes], scores: Sequence[float]) -> dict[str, Field]:
    """Return the metadata of a SentencePiece vocabulary: 0 is unknown, 1 and 2 begin and end a text, 3 to 258 are the bytes."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    texts += [piece.decode("utf-8", errors="replace").replace(" ", "▁") for piece in pieces[len(texts) :]]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(texts) - 259)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [float(score) for score in scores],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
    }


def from_tokenizer(tokenizer: Any, size: int) -> tuple[dict[str, Field], tuple[str, ...]]:
    """Return the metadata of a fast tokenizer of transformers, and notes.

    Args:
        tokenizer: byte-pair encoding, of bytes (GPT-2, Llama 3, Qwen) or with a fallback to bytes (Llama 2, Mistral).
        size: tokens of the network; more than the tokenizer has are filled up by unused ones.

    Raises:
        InputError: another kind of tokenizer, or more tokens than the network has.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    data: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": type(tokenizer).__name__}}
    model = data["model"]
    if model["type"] != "BPE":
        raise InputError(
            f"the tokenizer is a {model['type']}; GGUF is written for byte-pair encoding. Leave Task.tokenizer out: the file then "
            "has no vocabulary."
        )
    if len(tokenizer) > size:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the network {size}: it is of another network.")
    pieces = bool(model.get("byte_fallback"))
    fields = _tokens(tokenizer, data, size, pieces=pieces)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if pieces:
        fields |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        fields["tokenizer.ggml.scores"] = _scores(fields["tokenizer.ggml.tokens"], merges)
        fields["tokenizer.ggml.add_space_prefix"] = _prefixes(data)
        return fields | _specials(tokenizer), ()
    name = next((name for part, name in PRETOKENIZERS.items() if part in json.dumps(data["pre_tokenizer"]).replace("\\\\", "\\")), "")
    if not name:
        name = "gpt-2" if _plain_bytes(data["pre_tokenizer"]) else "default"
    note = "llama.cpp may split texts otherwise than this tokenizer: its pre-tokenizer is none that GGUF has a name for here"
    fields |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.merges": merges}
    return fields | _specials(tokenizer), (note,) if name == "default" else ()


def _plain_bytes(pre: dict[str, Any] | None) -> bool:
    return bool(pre) and pre is not None and pre.get("type") == "ByteLevel" and bool(pre.get("use_regex", True))


def _tokens(tokenizer: Any, data: dict[str, Any], size: int, *, pieces: bool) -> dict[str, Field]:
    """Return the texts and types of the tokens, by number."""
    texts, kinds = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for text, number in data["model"]["vocab"].items():
        texts[number], kinds[number] = text, BYTE if pieces and len(text) == 6 and text.startswith("<0x") else NORMAL
    for entry in data.get("added_tokens") or ():
        texts[entry["id"]], kinds[entry["id"]] = entry["content"], CONTROL if entry["special"] else USER
    if pieces and tokenizer.unk_token_id is not None:
        kinds[tokenizer.unk_token_id] = UNKNOWN
    return {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": kinds}


def _scores(texts: Any, merges: Sequence[str]) -> list[float]:
    """Return minus the rank of the first merge that makes a piece; llama.cpp joins the best-scored neighbours first."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks.get(text, len(merges))) for text in texts]


def _prefixes(data: dict[str, Any]) -> bool:
    """Tell whether a space is put before a text."""
    return '"prepend"' in json.dumps(data.get("normalizer")).lower() or '"prepend_scheme": "first"' in json.dumps(data.get("pre_tokenizer"))


def _specials(tokenizer: Any) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            fields[f"tokenizer.ggml.{key}_token_id"] = int(number)
    around = tokenizer("a")["input_ids"]
    fields["tokenizer.ggml.add_bos_token"] = bool(around) and around[0] == getattr(tokenizer, "bos_token_id", None)
    fields["tokenizer.ggml.add_eos_token"] = bool(around) and around[-1] == getattr(tokenizer, "eos_token_id", None)
    if getattr(tokenizer, "chat_template", None):
        fields["tokenizer.chat_template"] = str(tokenizer.chat_template)
    return fields
