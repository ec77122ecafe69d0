"""The axes of inputs whose sizes differ between batches, and the batches that show them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.sizes import batches_of_other_sizes, other_lengths, varying_axes


def test_axes_that_always_agree_are_one() -> None:
    example = {"tokens": torch.zeros(4, 7), "mask": torch.zeros(4, 7), "image": torch.zeros(4, 3, 7, 5)}
    longer = {"tokens": torch.zeros(4, 9), "mask": torch.zeros(4, 9), "image": torch.zeros(4, 3, 7, 5)}
    higher = {"tokens": torch.zeros(4, 7), "mask": torch.zeros(4, 7), "image": torch.zeros(4, 3, 8, 5)}
    assert varying_axes(example, [longer, higher]) == {(0, 1): (0, 1), (1, 1): (0, 1), (2, 2): (2, 2)}
    assert varying_axes(example, []) == {}


def test_few_batches_show_every_axis() -> None:
    shapes = [(4, 7, 5), (3, 7, 5), (4, 9, 5), (4, 8, 5), (4, 7, 6), (4, 8, 6)]
    batches = [torch.zeros(shape) for shape in shapes]
    others = batches_of_other_sizes(batches[0], batches)
    assert [tuple(other.shape) for other in others] == [(4, 9, 5), (4, 7, 6)]


def test_batches_with_other_tensors_are_left_out() -> None:
    example = {"x": torch.zeros(4, 7)}
    assert batches_of_other_sizes(example, [{"x": torch.zeros(4, 7), "y": torch.zeros(4, 9)}, {"x": torch.zeros(4, 7, 2)}]) == ()


class Tokens(nn.Module):
    """Logits of every token, with positions for 10 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places, self.head = nn.Embedding(20, 8), nn.Embedding(10, 8), nn.Linear(8, 20)

    def forward(self, tokens: Tensor, mask: Tensor, extra: Tensor) -> Tensor:
        places = self.places(torch.arange(tokens.shape[1]))
        return self.head((self.table(tokens) + places) * mask[..., None] + extra[:, :1, None])


def batch(length: int) -> dict[str, Tensor]:
    return {"tokens": torch.arange(4 * length).view(4, length) % 20, "mask": torch.ones(4, length), "extra": torch.ones(4, 3)}


@pytest.mark.parametrize(("length", "lengths"), [(5, [2, 10]), (6, [3]), (1, [2])])
def test_sequences_are_cut_and_repeated_where_the_network_takes_them_so(length: int, lengths: list[int]) -> None:
    model, example = Tokens(), batch(length)
    others = other_lengths(example, lambda inputs: model(**inputs))
    assert [other["tokens"].shape for other in others] == [(1, length) for length in lengths]
    assert all(other["mask"].shape == other["tokens"].shape and other["extra"].shape == (1, 3) for other in others)
    assert torch.equal(others[-1]["tokens"][:, :length], example["tokens"][:1, : lengths[-1]])


@pytest.mark.parametrize(
    ("inputs", "model"),
    [
        (torch.zeros(4, 6, 8), nn.Linear(8, 5)),
        (torch.zeros(4, 6, dtype=torch.int64), nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 5))),
        (
            torch.zeros(4, 6, dtype=torch.int64),
            nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 48), nn.Unflatten(1, (6, 8))),
        ),
    ],
)
def test_other_inputs_and_outputs_are_no_sequences_of_any_length(inputs: Tensor, model: Any) -> None:
    assert other_lengths(inputs, model) == ()
