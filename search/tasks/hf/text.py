"""Text for networks: windows of tokens, masked tokens, and sentences or pairs of sentences with labels."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.util.errors import InputError
from quant_core.util.text import listed
from search.tasks.batches import IGNORED
from search.tasks.hf.tables import Table
from search.tasks.splits import take

LENGTH = 256
BLOCK = 2**18
"""Characters that are tokenized at once; a block ends with a row."""
JOINT = "\n\n"
"""Between the rows of a table, as the code of GPTQ (Frantar et al. 2023) judges language models; a text file stands as it is."""
MASKED = 0.15
"""The share of tokens that BERT predicts (Devlin et al. 2019, section 3.1)."""


def token_length(length: int | None, tokenizer: Any, network: Any) -> int:
    """Return the tokens per sequence; by default 256, or what tokenizer and network can take.

    Raises:
        InputError: the network cannot take as many.
    """
    most = min(tokenizer.model_max_length, getattr(network.config, "max_position_embeddings", None) or 10**6)
    return min(LENGTH, most) if length is None else take("length", length, int(min(most, 10**6)))


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain), 0)
    return list(whole[:start]), list(whole[start + len(plain) :])


def windows(table: Table, tokenizer: Any, length: int, most: int | None) -> list[Tensor]:
    """Return consecutive windows of a text, each [length] with the tokenizer's special tokens about it.

    Args:
        table: its rows are one text.
        tokenizer: of the network.
        length: tokens per window, special ones counted.
        most: windows to read; None: all.

    Raises:
        InputError: the text has fewer tokens than one window.
    """
    before, after = frame(tokenizer)
    inner = length - len(before) - len(after)
    if inner < 1:
        raise InputError(f"length = {length} holds no token beside {len(before) + len(after)} special ones; give a larger one.")
    tokens: list[int] = []
    for block in _blocks(table):
        tokens += tokenizer(block, add_special_tokens=False, verbose=False)["input_ids"]
        if most is not None and len(tokens) >= most * inner:
            break
    count = len(tokens) // inner if most is None else min(most, len(tokens) // inner)
    if not count:
        raise InputError(f"{table.name} has {len(tokens)} tokens, and one sequence needs {inner}: give more text, or a smaller length.")
    return [torch.tensor([*before, *tokens[k * inner : (k + 1) * inner], *after]) for k in range(count)]


def _blocks(table: Table) -> Iterator[str]:
    """Yield the text in blocks that end with a row."""
    rows, size = [], 0
    for row in table:
        rows.append(str(row["text"]) + ("" if table.lines else JOINT))
        size += len(rows[-1])
        if size >= BLOCK:
            yield "".join(rows)
            rows, size = [], 0
    yield "".join(rows)


def causal_batch(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return windows [T] as a batch for `next_token`."""
    return {"input_ids": torch.stack(list(rows))}


def masked(rows: Sequence[Tensor], tokenizer: Any, seed: int) -> list[dict[str, Tensor]]:
    """Return windows with 15 % of their tokens, one at least, replaced by the mask; these are the labels.

    Raises:
        InputError: the tokenizer has no mask.
    """
    if tokenizer.mask_token_id is None:
        raise InputError(
            "kind = 'masked-lm' needs a tokenizer with a mask token; this one has none: was the network trained to fill masks?"
        )
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    return [_masked(window, int(tokenizer.mask_token_id), special, generator) for window in rows]


def _masked(window: Tensor, mask: int, special: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    open_places = torch.nonzero(~torch.isin(window, special)).flatten()
    count = min(len(open_places), max(1, round(MASKED * len(open_places))))
    chosen = open_places[torch.randperm(len(open_places), generator=generator)[:count]]
    labels = torch.full_like(window, IGNORED)
    labels[chosen] = window[chosen]
    return {"input_ids": window.index_fill(0, chosen, mask), "labels": labels}


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return examples of one shape as a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True, eq=False)
class Sentences:
    """Rows with text, perhaps text2, and label, as a classifier takes them: padded to the longest of the batch, cut to `length` tokens.

    Attributes:
        tokenizer: of the network.
        length: most tokens per example.
        pad: all examples are padded to `length` tokens.
        label: maps the label of a row to a number.
    """

    tokenizer: Any
    length: int
    pad: bool
    label: Callable[[Any], int | float]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return tokens [B, T], and labels [B]."""
        texts = [[str(row[part]) for row in rows] for part in ("text", "text2") if part in rows[0]]
        batch = padded(self.tokenizer, texts, self.length, pad=self.pad)
        return {**batch, "labels": torch.tensor([self.label(row["label"]) for row in rows])}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows with text, text2 and score: tokens [B, 2, T], and the scores mapped to [0, 1] by the range of all rows; `pad` as `Sentences`."""

    tokenizer: Any
    length: int
    pad: bool
    least: float
    span: float

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the tokens of both texts of every pair, and labels [B]."""
        texts = list(itertools.chain.from_iterable((str(row["text"]), str(row["text2"])) for row in rows))
        batch = padded(self.tokenizer, [texts], self.length, pad=self.pad)
        scores = [(float(row["label"]) - self.least) / self.span for row in rows]
        return {**{name: value.unflatten(0, (-1, 2)) for name, value in batch.items()}, "labels": torch.tensor(scores)}


def padded(tokenizer: Any, texts: Sequence[Sequence[str]], length: int, *, pad: bool) -> Any:
    """Return the tokens of texts, or of pairs of texts, cut to `length` and padded to the longest, or, with `pad`, to `length`."""
    return tokenizer(*texts, padding="max_length" if pad else True, truncation=True, max_length=length, return_tensors="pt")


def with_padding(tokenizer: Any, network: Any) -> Any:
    """Return the tokenizer with a padding token: its own, else the end of a text, which is told to the network.

    Raises:
        InputError: it has neither.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no padding token, and no end of text to stand for it: set tokenizer.pad_token and save it.")
        tokenizer.pad_token = tokenizer.eos_token
        network.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def numbers(values: Iterable[Any], name: str) -> list[float]:
    """Return values of a column as numbers.

    Raises:
        InputError: one is none.
    """
    made = []
    for value in values:
        try:
            made.append(float(value))
        except (TypeError, ValueError):
            raise InputError(
                f"{name} holds the score {value!r}; numbers are needed: name the column, columns = {{ label = 'NAME' }}."
            ) from None
    return made


@dataclass(frozen=True, eq=False)
class Classes:
    """The number of a label: a class name of the network's configuration, or the number itself.

    Attributes:
        names: of the classes -> number.
        count: of classes.
    """

    names: Mapping[str, int]
    count: int

    def __call__(self, value: Any) -> int:
        """Return the number of a label.

        Raises:
            InputError: the network has no such class.
        """
        if str(value) in self.names:
            return self.names[str(value)]
        number = int(value) if str(value).isdecimal() else -1
        if not 0 <= number < self.count:
            raise InputError(
                f"label {value!r} is no class of the network; its {self.count} classes: {listed(self.names)} (0 to {self.count - 1})."
            )
        return number
