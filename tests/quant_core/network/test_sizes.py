"""The axes of inputs whose sizes differ between batches, and the batches that show them."""

import torch

from quant_core.network.sizes import batches_of_other_sizes, varying_axes


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
