"""Tiny networks with random weights, saved as `save_pretrained` does, with tokenizers made here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = [f"{first}{second}" for first in ("ka", "lo", "mi", "tu") for second in ("ra", "ne", "si", "po", "du")]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>"]

Saver = Callable[..., Path]


def tokenizer(bert: bool) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    core.pre_tokenizer = WhitespaceSplit()
    if bert:
        core.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 5)])
        names = {"bos_token": "<s>", "eos_token": "</s>"}
        inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", model_max_length=32, model_input_names=inputs, **names)


def config(family: str, **changes: Any) -> Any:
    import transformers

    size = len(SPECIAL) + len(WORDS)
    if family == "llama":
        options = {
            "vocab_size": size,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 32,
            "bos_token_id": 5,
            "eos_token_id": 6,
        }
        return transformers.LlamaConfig(**options | changes)
    options = {
        "vocab_size": size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }
    return transformers.BertConfig(**options | changes)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saver:
    """Return a function that saves a tiny network of a class of transformers, with its tokenizer, and returns the folder."""
    import transformers

    def save(name: str, with_tokenizer: bool = True, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        family = "llama" if name.startswith("Llama") else "bert"
        getattr(transformers, name)(config(family, **changes)).save_pretrained(folder)
        if with_tokenizer:
            tokenizer(family == "bert").save_pretrained(folder)
        return folder

    return save


def sentence(k: int) -> str:
    return " ".join(WORDS[(k * 7 + 3 * j) % len(WORDS)] for j in range(4 + k % 5))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text of 60 lines, about 360 words."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(sentence(k) + "\n" for k in range(60)))
    return path


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 rows of score, sentence, sentence, without a header."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(f"{k % 6}.0\t{sentence(k)}\t{sentence(k + 1)}\n" for k in range(40)))
    return path


@pytest.fixture(scope="session")
def labelled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 40 rows with the columns sentence and label."""
    path = tmp_path_factory.mktemp("labelled") / "labelled.csv"
    path.write_text("sentence,label\n" + "".join(f'"{sentence(k)}",{"good" if k % 2 else "bad"}\n' for k in range(40)))
    return path
