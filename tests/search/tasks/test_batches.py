"""Batches of any structure as inputs and targets."""

from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from quant_core.network.forward import Examples, examples_of, first_examples
from quant_core.util.errors import InputError
from search.tasks.batches import Divided, Weighted, cut, divided, next_token, parted, size_of

X, Y, W = torch.arange(12.0).view(6, 2), torch.arange(6), torch.ones(6)


@dataclass
class Example:
    pixels: Tensor
    label: Tensor
    sample_weight: Tensor | None = None


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        return (X[i], X[i] + 1), {"box": X[i], "name": f"{i}"}


@pytest.mark.parametrize(
    "batch",
    [{"pixels": X, "labels": Y}, UserDict(pixels=X, target=Y), Example(X, Y), ({"pixels": X}, Y), [UserDict(pixels=X), Y]],
    ids=["dict", "BatchEncoding", "dataclass", "pair", "list"],
)
def test_labels_are_inside_or_beside(batch: Any) -> None:
    inputs, targets = divided(batch, None, "batch 1")
    assert type(inputs) is dict
    assert inputs == {"pixels": X}
    assert targets is Y


def test_sample_weights_go_with_the_targets() -> None:
    for batch, rule in (
        (Example(X, Y, W), None),
        ({"pixels": X, "labels": Y, "sample_weights": W}, None),
        ((X, Y, W), lambda batch: ({"pixels": batch[0]}, *batch[1:])),
    ):
        inputs, targets = divided(batch, rule, "batch 1")
        assert inputs == {"pixels": X}
        assert parted(targets) == (Y, W)
    assert parted(Y) == (Y, None)


def test_the_part_that_holds_the_labels_may_be_named() -> None:
    assert divided({"x": X, "y2": Y, "labels": W}, "y2", "batch 1") == ({"x": X, "labels": W}, Y)
    inputs, targets = divided((X, Y, W), "1", "batch 1")
    assert inputs[0] is X
    assert inputs[1] is W
    assert targets is Y


def test_a_batch_without_labels_has_no_targets() -> None:
    assert divided({"x": X}, None, "batch 1") == ({"x": X}, None)
    assert divided(X, None, "batch 1") == (X, None)


def test_a_loader_of_tuples_and_dicts_is_read_as_often_as_one_likes() -> None:
    split = Divided(DataLoader(Pairs(), batch_size=4), None, "valid")
    for _ in range(2):
        (inputs, targets), (_, last) = split
        assert [part.shape for part in inputs] == [(4, 2), (4, 2)]
        assert targets["name"] == ["0", "1", "2", "3"]
        assert len(last["name"]) == 2


def test_the_next_token_is_the_target() -> None:
    tokens = torch.tensor([[5, 6, 7, 0], [8, 9, 4, 3]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    inputs, targets = next_token(UserDict(input_ids=tokens, attention_mask=mask, labels=tokens))
    assert sorted(inputs) == ["attention_mask", "input_ids"]
    assert targets.tolist() == [[6, 7, -100, -100], [9, 4, 3, -100]]
    assert next_token(tokens)[1].tolist() == [[6, 7, 0, -100], [9, 4, 3, -100]]
    with pytest.raises(InputError, match=r"next_token: a Tensor of shape \(6, 2, 1\) given; a mapping with input_ids \[N, T\]"):
        next_token(X[:, :, None])


def test_lists_of_one_entry_per_example_are_told_from_collated_arguments() -> None:
    images = [torch.zeros(3, 8, 8) for _ in range(6)]
    inputs, _ = divided((images, Y), None, "batch 1")
    assert isinstance(inputs, Examples)
    assert [len(first_examples(inputs, 2)), examples_of(inputs)] == [2, 6]
    assert [type(divided(batch, None, "batch 1")[0]) for batch in (([X, X], Y), ([X] * 6, Y))] == [list, list]
    named, _ = divided({"images": images, "sizes": [[8, 8]] * 6, "x": X, "labels": Y}, None, "batch 1")
    assert [len(part) for part in first_examples(named, 2).values()] == [2, 2, 2]


def test_a_loader_that_does_not_know_its_length_is_read() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(X, Y, strict=True))

    loader: Any = DataLoader(Endless(), batch_size=4)
    assert [len(inputs) for inputs, _ in Divided(loader, None, "train")] == [4, 2]


def test_examples_are_counted_and_cut_whatever_holds_them() -> None:
    boxes = [{"boxes": torch.zeros(n, 4)} for n in (2, 0, 5)]
    assert size_of((list(X[:3]),), boxes) == 3
    assert cut(boxes, 2, 3) == boxes[:2]
    images = [torch.zeros(3, 8, 8) for _ in range(6)]
    assert [image.shape for image in cut((images,), 2, 6)[0]] == [(3, 8, 8)] * 2  # a list of examples
    assert [len(part) for part in cut(([X] * 6,), 2, 6)[0]] == [2] * 6  # tensors of all examples
    assert size_of({"x": X}, None) == 6
    assert size_of(X, {"a": Y}) == 6
    assert cut({"x": X, "n": 3}, 2, 6)["x"].shape == (2, 2)
    weighted = cut(Weighted(Y, W), 2, 6)
    assert (len(weighted.targets), len(weighted.weights)) == (2, 2)
    assert [len(part) for part in cut([X, Y], 4, 6)] == [4, 4]
