"""What is refused at the place of a network: each answer is one sentence with the mend."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quant_core.util.errors import InputError
from search.tasks.hf.kinds import KINDS
from search.tasks.hf.place import load_network, load_processor
from search.tasks.hf.task import hf

pytest.importorskip("transformers", reason="transformers is an extra: pip install 'bitfront[transformers]'")

Saver = Callable[..., Path]
CAUSAL = KINDS["causal-lm"]


def test_a_folder_that_is_not_there_is_not_looked_for_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object) -> None:
        raise AssertionError("no connection is made without download = true")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(InputError, match=r"there is no such folder, nor such a network in the Hugging Face cache; .* or download = true"):
        load_network("somebody/some-network", CAUSAL, False)
    with pytest.raises(InputError, match=r"the folder has no config.json; give the folder that save_pretrained wrote"):
        load_network(str(tmp_path), CAUSAL, False)


def test_a_folder_without_weights_is_named(saved: Saver) -> None:
    folder = saved("LlamaForCausalLM")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"transformers cannot load it as 'causal-lm' \(OSError: .*give the folder that save_pretrained wrote"
    ):
        load_network(str(folder), CAUSAL, False)


def test_a_network_without_a_tokenizer_is_refused(saved: Saver) -> None:
    folder = saved("LlamaForCausalLM", with_tokenizer=False)
    with pytest.raises(InputError, match=r"has no tokenizer beside its weights.*save it there: tokenizer.save_pretrained\(FOLDER\)"):
        load_processor(str(folder), CAUSAL, False)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("BertForMaskedLM", "causal-lm", r"holds a BertForMaskedLM; kind = 'causal-lm' needs a BertLMHeadModel: give kind = 'masked-lm'"),
        ("LlamaForCausalLM", "speech", r"holds a LlamaForCausalLM; kind = 'speech' needs a .*: give kind = 'causal-lm'"),
        ("BertForTokenClassification", "masked-lm", r"the kinds are causal-lm, .*; for others write a task \(docs/own-task.md\)"),
    ],
)
def test_a_network_of_another_kind_is_refused_with_the_kind_that_fits(name: str, kind: str, message: str, saved: Saver) -> None:
    with pytest.raises(InputError, match=message):
        load_network(str(saved(name)), KINDS[kind], False)


def test_weights_that_do_not_fill_the_network_are_refused(saved: Saver) -> None:
    """A head with random weights would be judged as if it were trained."""
    from safetensors.torch import load_file, save_file

    folder = saved("BertForSequenceClassification")
    path = folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if not name.startswith("classifier")}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(
        InputError, match=r"holds no weights for classifier.bias, classifier.weight: it was not trained as 'text-classification'"
    ):
        load_network(str(folder), KINDS["text-classification"], False)


def test_code_that_a_network_brings_never_runs(saved: Saver, tmp_path: Path) -> None:
    import json

    folder, mark = saved("LlamaForCausalLM"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the network brings code of its own, which hf never runs; load it in a task of your own"):
        load_network(str(folder), CAUSAL, False)
    assert not mark.exists()


def test_download_is_passed_on_and_off_by_default(monkeypatch: pytest.MonkeyPatch, saved: Saver) -> None:
    import transformers

    asked: list[bool] = []
    plain = transformers.AutoConfig.from_pretrained

    def noted(name: str, **options: Any) -> Any:
        asked.append(options["local_files_only"])
        return plain(name, **options)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", noted)
    folder = str(saved("LlamaForCausalLM"))
    load_network(folder, CAUSAL, False)
    load_network(folder, CAUSAL, True)
    assert (asked[0], asked[-1]) == (True, False)


def test_weights_keep_their_stored_precision(saved: Saver) -> None:
    folder = saved("LlamaForCausalLM", dtype="bfloat16")
    from transformers import LlamaForCausalLM

    LlamaForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    assert load_network(str(folder), CAUSAL, False).get_parameter("lm_head.weight").dtype is torch.bfloat16


def test_transformers_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"the task hf needs transformers .*pip install 'bitfront\[transformers\]'"):
        load_network("x", CAUSAL, False)


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"kind = 'translation' given; one of causal-lm, masked-lm, .* is needed"):
        hf("x", "translation", "y")


def test_a_tokenizer_without_a_mask_is_refused(text_file: Path, saved: Saver) -> None:
    from search.tasks.hf.text import masked

    with pytest.raises(InputError, match="needs a tokenizer with a mask token; this one has none"):
        masked([torch.arange(4)], SimpleNamespace(mask_token_id=None), 0)
