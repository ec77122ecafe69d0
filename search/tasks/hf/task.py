"""Networks of Hugging Face transformers, from a folder or the hub: language models, classifiers, sentence similarity, images, speech."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.util.errors import InputError
from search.tasks.batches import next_token
from search.tasks.hf.encoded import Encoded
from search.tasks.hf.kinds import Kind, kind_of
from search.tasks.hf.place import load_network, load_processor
from search.tasks.hf.similarity import SentencePairs, takes_first
from search.tasks.hf.speech import Speech
from search.tasks.hf.tables import Columns, Table, tables
from search.tasks.hf.text import Classes, Pairs, Sentences, causal_batch, masked, numbers, stacked, token_length, windows, with_padding
from search.tasks.image_folder import open_image, split_files
from search.tasks.splits import divide, permutation, take, whole
from search.tasks.task import Task

Rows = Sequence[Any]


@dataclass(frozen=True)
class _Request:
    """The options of the task that its kinds read."""

    kind: Kind
    model: str
    data: str
    test_data: str | None
    columns: Columns
    length: int | None
    sizes: Mapping[str, int | None]
    seed: int
    download: bool
    pad: bool

    @property
    def calib(self) -> int:
        """The examples of calibration."""
        size = self.sizes["calib"]
        return whole("calib_size", 0 if size is None else size, 1)

    def tables(self) -> dict[str, Table]:
        """Return split -> table, the test split from its own file where there is one."""
        made = tables(self.data, self.kind, self.columns, self.download)
        if self.test_data is None:
            return made
        other = tables(self.test_data, self.kind, self.columns, self.download)
        return {**made, "test": other.get("test") or next(iter(other.values()))}

    def rows(self) -> tuple[Rows, Rows, Rows]:
        """Return the rows of train, valid and test, in one shuffled order."""
        read = {split: list(table) for split, table in self.tables().items()}
        mixed = {split: [rows[i] for i in permutation(len(rows), self.seed).tolist()] for split, rows in read.items()}
        return self.divided(mixed, "examples")

    def divided(self, parts: Mapping[str, Rows], noun: str) -> tuple[Rows, Rows, Rows]:
        """Return train, valid and test of the parts that the data has."""
        valid = self.sizes["valid"]
        return divide(parts, self.calib, f"data = {self.data!r}", noun, None if valid is None else whole("valid_size", valid, 1))


@dataclass(frozen=True, eq=False)
class _Built:
    """What a kind makes of a request: the network, the examples of train, valid and test, and how a batch is made of them."""

    network: nn.Module
    splits: tuple[Rows, Rows, Rows]
    encode: Callable[[Sequence[Any]], dict[str, Any]]
    batch: Callable[[Any], tuple[Any, Tensor]] | None = None
    class_axis: int | None = None
    metrics: tuple[str, ...] = ()
    tokenizer: Any = None


def hf(
    model: str,
    kind: str,
    data: str,
    test_data: str | None = None,
    columns: Mapping[str, Any] | None = None,
    length: int | None = None,
    train_size: int | None = None,
    calib_size: int = 64,
    valid_size: int | None = None,
    test_size: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    download: bool = False,
    pad: bool = False,
) -> Task:
    """Return a task for a network of transformers; tokenizer or processor come from the same place, code of the network's own never runs.

    Args:
        model: a folder that `save_pretrained` wrote, or a hub id that is in the Hugging Face cache.
        kind: causal-lm, masked-lm, text-classification, sentence-similarity, image-classification or speech.
        data: a file (.txt, .csv, .tsv, .jsonl), a folder with files train, valid and test, a folder of images per class, or the name of a
            data set of the library datasets ("NAME" or "NAME:CONFIGURATION").
        test_data: the same for the test split alone.
        columns: names of the parts text, text2, label and audio in the data, or their positions in a file without a header.
        length: most tokens per example; default 256, or what the network takes.
        train_size, calib_size, valid_size, test_size: take so many examples of a split; text for language models is cut into sequences.
        batch_size: examples per batch.
        seed: of the order of the examples, and of the masked tokens.
        download: network and data may be downloaded, with huggingface_hub's progress bar.
        pad: sentences are all padded to `length` tokens, for formats of one size (litert, executorch), not to the longest of their batch.

    Raises:
        InputError: no such network or data, no tokenizer, another kind of network, columns that are missing, or too few examples.
    """
    sizes = {"train": train_size, "calib": calib_size, "valid": valid_size, "test": test_size}
    chosen = kind_of(kind)
    request = _Request(chosen, model, data, test_data, dict(columns or {}), length, sizes, whole("seed", seed, 0), download, pad)
    built = BUILDERS[kind](request)
    step = whole("batch_size", batch_size, 1)
    train, valid, test = built.splits
    parts = {"train": train, "calib": train, "valid": valid, "test": test}
    made = {name: Encoded(rows[: take(f"{name}_size", sizes[name], len(rows))], step, built.encode) for name, rows in parts.items()}
    splits: dict[str, Any] = made
    metrics = list(built.metrics or chosen.metrics)
    return Task(built.network, **splits, metrics=metrics, batch=built.batch, class_axis=built.class_axis, tokenizer=built.tokenizer)


def _network(request: _Request) -> Any:
    return load_network(request.model, request.kind, request.download)


def _processor(request: _Request) -> Any:
    return load_processor(request.model, request.kind, request.download)


def _windows(request: _Request, tokenizer: Any, length: int) -> tuple[Rows, Rows, Rows]:
    """Return the sequences of train, valid and test, in the order of the text, which is read no further than the sizes ask."""
    train, valid, test = (request.sizes[split] for split in ("train", "valid", "test"))
    judged = None if valid is None or test is None else request.calib + valid + test
    trained = None if train is None else max(train, request.calib)
    parts = {split: windows(table, tokenizer, length, trained if split == "train" else judged) for split, table in request.tables().items()}
    return request.divided(parts, "sequences")


def _causal(request: _Request) -> _Built:
    network, tokenizer = _network(request), _processor(request)
    network.config.use_cache = False
    splits = _windows(request, tokenizer, token_length(request.length, tokenizer, network))
    return _Built(network, splits, causal_batch, next_token, -1, tokenizer=tokenizer)


def _masked(request: _Request) -> _Built:
    network, tokenizer = _network(request), _processor(request)
    train, valid, test = _windows(request, tokenizer, token_length(request.length, tokenizer, network))
    splits = (masked(train, tokenizer, request.seed), masked(valid, tokenizer, request.seed + 1), masked(test, tokenizer, request.seed + 2))
    return _Built(network, splits, stacked, class_axis=-1)


def _classification(request: _Request) -> _Built:
    network = _network(request)
    tokenizer = with_padding(_processor(request), network)
    config = network.config
    values = config.num_labels == 1
    label: Callable[[Any], int | float] = float if values else Classes(dict(config.label2id), config.num_labels)
    splits = request.rows()
    for rows in splits:
        if values:
            numbers((row["label"] for row in rows), request.data)
        else:
            list(map(label, {row["label"] for row in rows}))
    encode = Sentences(tokenizer, token_length(request.length, tokenizer, network), request.pad, label)
    return _Built(network, splits, encode, metrics=("spearman", "pearson") if values else ())


def _similarity(request: _Request) -> _Built:
    network = _network(request)
    tokenizer = with_padding(_processor(request), network)
    splits = request.rows()
    scores = numbers((row["label"] for rows in splits for row in rows), request.data)
    span = max(scores) - min(scores) or 1.0
    encode = Pairs(tokenizer, token_length(request.length, tokenizer, network), request.pad, min(scores), span)
    return _Built(SentencePairs(network, takes_first(request.model)).eval(), splits, encode)


def _images(request: _Request) -> _Built:
    network, processor = _network(request), _processor(request)
    train, valid, test, folders = split_files(Path(request.data).expanduser(), request.calib, request.seed)
    config = network.config
    names: Mapping[str, int] = dict(config.label2id)
    if set(folders) <= set(names):
        numbered = [names[folder] for folder in folders]
    elif len(folders) == config.num_labels:
        numbered = list(range(len(folders)))
    else:
        raise InputError(
            f"data = {request.data!r} has {len(folders)} folders, and the network {config.num_labels} classes: name the folders as "
            f"its classes are named (id2label in config.json), or give one per class in the order of their numbers."
        )

    def encode(rows: Sequence[tuple[Path, int]]) -> dict[str, Tensor]:
        images = [open_image(path, str(path)) for path, _ in rows]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([numbered[label] for _, label in rows])}

    return _Built(network, (train, valid, test), encode)


def _speech(request: _Request) -> _Built:
    network, processor = _network(request), _processor(request)
    config = network.config
    config.use_cache = False
    data = Path(request.data).expanduser()
    start = config.decoder_start_token_id
    most = getattr(config, "max_target_positions", None) or 448
    length = most if request.length is None else take("length", request.length, most)
    encode = Speech(
        processor, data if data.is_dir() else data.parent, int(processor.tokenizer.bos_token_id if start is None else start), length
    )
    return _Built(network, request.rows(), encode, class_axis=-1)


BUILDERS: Mapping[str, Callable[[_Request], _Built]] = {
    "causal-lm": _causal,
    "masked-lm": _masked,
    "text-classification": _classification,
    "sentence-similarity": _similarity,
    "image-classification": _images,
    "speech": _speech,
}
