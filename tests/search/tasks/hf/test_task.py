"""The task hf on tiny networks of every kind of text, against figures of transformers' own calls."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search import tasks
from search.tasks.metrics.state import Judged
from search.tasks.task import Task

pytest.importorskip("transformers", reason="transformers is an extra: pip install 'bitfront[transformers]'")

Saver = Callable[..., Path]


def figures(task: Task, split: str = "valid") -> dict[str, float]:
    """Return the figures of the float network, as an evaluation gathers them."""
    states = [judge.start() for judge in task.judges]
    with torch.inference_mode():
        for inputs, targets in getattr(task, split):
            outputs = task.model(**inputs)
            logits = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
            for state in states:
                state.update(Judged(logits, targets, None, logits, axis=task.class_axis))
    values = [value for state in states for value in state.values()]
    return dict(zip((info.name for info in task.infos), values, strict=True))


def counts(task: Task) -> list[int]:
    return [sum(len(targets) for _, targets in split) for split in (task.train, task.calib, task.valid, task.test)]


def test_a_causal_language_model_has_the_perplexity_of_its_own_loss(saved: Saver, text_file: Path) -> None:
    folder = saved("LlamaForCausalLM")
    options = {"model": str(folder), "kind": "causal-lm", "data": str(text_file), "length": 16, "calib_size": 4, "batch_size": 3}
    task = tasks.load("hf", options)
    assert counts(task) == [4, 4, 10, 10]  # 366 words, 15 in every sequence
    with torch.inference_mode():
        losses = [float(task.model(**inputs, labels=inputs["input_ids"]).loss) * len(targets) for inputs, targets in task.valid]
    values = figures(task)
    assert values["perplexity"] == pytest.approx(math.exp(sum(losses) / 10), rel=1e-5)
    assert (values["kld"], values["flips"]) == (0.0, 0.0)
    first, _ = next(iter(task.calib))
    words = text_file.read_text().split()
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(first["input_ids"][0].tolist())
    assert tokens == ["<s>", *words[:15]]


def test_sizes_end_the_reading_of_a_text(saved: Saver, text_file: Path) -> None:
    options = {"model": str(saved("LlamaForCausalLM")), "kind": "causal-lm", "data": str(text_file), "length": 8}
    task = tasks.load("hf", options | {"calib_size": 2, "valid_size": 3, "test_size": 5})
    assert counts(task) == [2, 2, 3, 5]
    again = tasks.load("hf", options | {"calib_size": 2, "valid_size": 3})
    assert counts(again)[:3] == [2, 2, 3]
    assert counts(again)[3] > 30


def test_a_masked_model_is_judged_on_its_masked_tokens(saved: Saver, text_file: Path) -> None:
    options = {"model": str(saved("BertForMaskedLM")), "kind": "masked-lm", "data": str(text_file), "length": 12, "calib_size": 4}
    task = tasks.load("hf", options)
    for inputs, labels in task.valid:
        hidden = labels != -100
        assert hidden.sum(dim=1).tolist() == [2] * len(labels)  # 15 % of ten
        assert bool((inputs["input_ids"][hidden] == 4).all())
        assert not bool((inputs["input_ids"][~hidden] == 4).any())
    assert set(figures(task)) == {"perplexity", "accuracy", "kld", "kld_q999", "flips"}


def test_a_classifier_takes_the_names_of_its_classes(saved: Saver, labelled_file: Path) -> None:
    folder = saved("BertForSequenceClassification", id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    options = {"model": str(folder), "kind": "text-classification", "data": str(labelled_file), "calib_size": 8, "batch_size": 7}
    task = tasks.load("hf", options)
    assert counts(task) == [8, 8, 16, 16]
    rows = [(inputs, targets) for split in (task.calib, task.valid, task.test) for inputs, targets in split]
    assert sum(int(targets.sum()) for _, targets in rows) == 20
    inputs, targets = rows[-1]
    right = (task.model(**inputs).logits.argmax(dim=1) == targets).float().mean()
    assert 0 <= float(right) <= 1
    assert figures(task)["flips"] == 0.0


def test_a_classifier_of_one_value_is_judged_by_correlation(saved: Saver, pairs_file: Path) -> None:
    folder = saved("BertForSequenceClassification", num_labels=1)
    columns = {"label": 0, "text": 1, "text2": 2}
    task = tasks.load(
        "hf", {"model": str(folder), "kind": "text-classification", "data": str(pairs_file), "columns": columns, "calib_size": 8}
    )
    assert set(figures(task)) == {"spearman", "pearson"}
    inputs, _ = next(iter(task.valid))
    assert int(inputs["token_type_ids"].max()) == 1  # the second sentence


@pytest.mark.parametrize(
    ("kind", "model"), [("sentence-similarity", "BertModel"), ("text-classification", "BertForSequenceClassification")]
)
def test_sentences_are_padded_to_one_length_where_that_is_asked(saved: Saver, pairs_file: Path, kind: str, model: str) -> None:
    folder = saved(model, num_labels=1) if kind == "text-classification" else saved(model)
    options = {"model": str(folder), "kind": kind, "data": str(pairs_file), "columns": {"label": 0, "text": 1, "text2": 2}, "calib_size": 8}
    lengths = {
        pad: {
            int(inputs["input_ids"].shape[-1])
            for inputs, _ in tasks.load("hf", {**options, "length": 24, "batch_size": 1, "pad": pad}).test
        }
        for pad in (False, True)
    }
    assert len(lengths[False]) > 1
    assert lengths[True] == {24}


def test_similarity_is_the_cosine_of_mean_embeddings(saved: Saver, pairs_file: Path) -> None:
    folder = saved("BertModel")
    columns = {"label": 0, "text": 1, "text2": 2}
    task = tasks.load(
        "hf", {"model": str(folder), "kind": "sentence-similarity", "data": str(pairs_file), "columns": columns, "calib_size": 8}
    )
    assert "model.pooler.dense" not in dict(task.model.named_modules())  # no sentence reaches it
    inputs, targets = next(iter(task.valid))
    assert inputs["input_ids"].shape[:2] == (len(targets), 2)
    assert 0 <= float(targets.min()) <= float(targets.max()) <= 1
    with torch.inference_mode():
        given = task.model(**inputs)
        for k in range(len(targets)):
            means = []
            for side in range(2):
                length = int(inputs["attention_mask"][k, side].sum())
                hidden = task.model.model(input_ids=inputs["input_ids"][k : k + 1, side, :length]).last_hidden_state
                means.append(hidden[0].mean(dim=0))
            assert float(given[k]) == pytest.approx(float(torch.cosine_similarity(means[0], means[1], dim=0)), abs=1e-5)


def test_the_test_split_may_lie_in_its_own_file(saved: Saver, pairs_file: Path, tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("5.0\tthe cat sat\tthe cat ran\n1.0\ta dog\ta red bird\n")
    options = {"model": str(saved("BertModel")), "kind": "sentence-similarity", "columns": {"label": 0, "text": 1, "text2": 2}}
    task = tasks.load("hf", options | {"data": str(pairs_file), "test_data": str(tmp_path / "test.tsv"), "calib_size": 8})
    assert counts(task) == [8, 8, 32, 2]


def test_files_named_by_split_are_the_splits(saved: Saver, tmp_path: Path) -> None:
    for name, count in (("train", 12), ("dev", 6), ("test", 4)):
        rows = "".join(f'{{"text": "the cat {k}", "label": {k % 2}}}\n' for k in range(count))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    options = {"model": str(saved("BertForSequenceClassification")), "kind": "text-classification", "data": str(tmp_path), "calib_size": 5}
    assert counts(tasks.load("hf", options)) == [12, 5, 6, 4]


def test_a_sweep_runs_on_it(saved: Saver, text_file: Path) -> None:
    import bitfront

    options: dict[str, Any] = {"model": str(saved("LlamaForCausalLM")), "kind": "causal-lm", "data": str(text_file), "length": 8}
    sizes = {"calib_size": 4, "valid_size": 4, "test_size": 4}
    sweep = bitfront.sweep(
        "hf",
        task_options=options | sizes,
        weight=["int4:channel:mse", "int8:channel:mse"],
        activation="int8:tensor:mse",
        device="counts",
        objectives=["error", "weight_bytes"],
        trials=4,
        record=None,
        log="none",
    )
    assert len(sweep.front()) >= 1


@pytest.mark.slow
def test_a_network_of_one_value_per_example_is_exported(
    saved: Saver, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bitfront

    monkeypatch.chdir(tmp_path)
    options = {"model": str(saved("BertModel")), "kind": "sentence-similarity", "data": str(pairs_file), "calib_size": 8}
    sweep = bitfront.sweep(
        "hf",
        task_options=options | {"columns": {"label": 0, "text": 1, "text2": 2}},
        weight=["int4:channel:mse", "int8:channel:mse"],
        activation="int8:tensor:mse",
        device="counts",
        objectives=["error", "weight_bytes"],
        trials=3,
        log="none",
    )
    sweep.export("knee", tmp_path / "out", formats=["safetensors", "onnx"])
    assert (tmp_path / "out" / "model.onnx").is_file()
