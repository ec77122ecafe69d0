"""The recipe on a small text: splits, tokens, training, and what is kept of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from quant_core.util.errors import InputError
from search.tasks.llama10m import training
from search.tasks.llama10m.training import Recipe, divided, encoded, network, weights_and_tokens

SMALL = Recipe(
    vocabulary=300, hidden=16, inner=24, layers=1, heads=2, kv_heads=1, context=64, length=16, batch=8, epochs=2, rate=0.02, bfloat16=False
)
TEXTS = [f"The cat number {number} sat on the mat, and the dog number {number} sat on the log. " * 4 for number in range(60)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("transformers", reason="transformers is an extra: pip install 'bitfront[transformers]'")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "documents", lambda: TEXTS)
    return tmp_path


def test_every_document_is_in_one_split() -> None:
    parts = divided(TEXTS, seed=1)
    assert sorted(text for part in parts.values() for text in part) == sorted(TEXTS)
    assert {split: len(part) for split, part in parts.items()} == {"valid": 3, "test": 6, "train": 51}
    assert divided(TEXTS, seed=1) == parts != divided(TEXTS, seed=2)


def test_documents_begin_with_the_first_token_and_the_vocabulary_is_of_the_training_text() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers comes with transformers")
    tokens = encoded({"train": TEXTS[:40], "valid": ["zebra", "yak"]}, 300)
    assert int((tokens["train"] == 0).sum()) == 40
    assert tokens["valid"].tolist()[0] == 0
    assert int((tokens["valid"] == 0).sum()) == 2
    assert len(tokens["valid"]) == 2 + len("zebra") + len("yak")  # bytes: no merge of the training text
    assert int(tokens["train"].max()) < 300


def loss(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    rows = tokens[: len(tokens) // 17 * 17].view(-1, 17)
    with torch.no_grad():
        return float(F.cross_entropy(model(input_ids=rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten()))


def test_training_learns_once_and_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = weights_and_tokens(SMALL)
    assert loss(model, tokens["valid"]) < loss(network(SMALL).eval(), tokens["valid"]) - 1
    monkeypatch.setattr(training, "_made", lambda _recipe: pytest.fail("trained again"))
    again, kept = weights_and_tokens(SMALL)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(kept["test"], tokens["test"])
    assert not again.training


def test_the_network_is_a_llama_of_10_million_weights_with_a_tied_head() -> None:
    pytest.importorskip("transformers", reason="transformers is an extra: pip install 'bitfront[transformers]'")
    with torch.device("meta"):
        model = network(Recipe())
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_491_200
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"the task llama10m needs transformers .*pip install 'bitfront\[transformers\]'"):
        network(replace(SMALL, seed=1))
