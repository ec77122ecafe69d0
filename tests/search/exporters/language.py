"""Small networks of transformers' Llama class as tasks, and bundles of them under one policy."""

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitfront
from search.exporters import Bundle
from search.exporters.flow import bundle_of

VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


class Logits(nn.Module):
    """A language model that gives its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def language_model(family: str = "Llama", **options: Any) -> Any:
    """Return a network of a family with sharp random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() == 2 else None
    return model


def hit(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(dim=-1) == targets).float()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def task(model: nn.Module, tokenizer: Any = None) -> bitfront.Task:
    """Return the task of agreeing with the float network."""
    tokens = torch.randint(0, VOCABULARY, (8, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = [(tokens, model(tokens).argmax(dim=-1))]
    return bitfront.Task(model, data, data, data, data, score=hit, loss=loss, class_axis=-1, tokenizer=tokenizer)


@cache
def bundle(
    weight: str, family: str = "Llama", activation: str = "float", *, fixed: tuple[tuple[str, str], ...] = (), correct: bool = False
) -> Bundle:
    """Return the one policy of a space; `fixed`: pattern of layers -> weight."""
    return bundle_under(task(Logits(language_model(family)).eval()), weight, activation, dict(fixed), correct=correct)


def bundle_under(
    judged: bitfront.Task, weight: str, activation: str = "float", fixed: Mapping[str, str] | None = None, *, correct: bool = False
) -> Bundle:
    """Return the one policy of a space of a task."""
    rules = [
        {"fix": pattern, "weight": text, **({"activation": "float"} if text == "float" else {})} for pattern, text in (fixed or {}).items()
    ]
    space = {"weight": weight, "activation": activation, "rules": rules, "device": "counts", "searcher": "random", "trials": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"evaluate": {"bias_correction": correct}}
        sweep = bitfront.sweep(judged, **space, record=None, log="none", threads=0, options=options)
        with sweep._opened() as context:
            return bundle_of(sweep.record, sweep.record.trials[0], context)
