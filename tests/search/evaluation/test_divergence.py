"""The divergence of outputs, its random directions, and the examples it is taken from."""

import pytest
import torch

from search.evaluation.divergence import ClassDivergence, Reference, ValueDivergence


def test_the_directions_of_logits_have_the_hessian_of_the_divergence_as_covariance() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    p = logits.softmax(0)
    v = ClassDivergence(1).direction(logits.expand(200_000, 3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(v.T @ v / len(v), torch.diag(p) - torch.outer(p, p), atol=2e-3, rtol=0)


def test_the_directions_of_values_have_the_inverse_variance() -> None:
    v = ValueDivergence(4.0).direction(torch.zeros(200_000, 2), torch.Generator().manual_seed(0))
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(2) / 4, atol=2e-3, rtol=0)


def test_half_the_mean_square_along_the_directions_is_the_divergence_of_a_small_error() -> None:
    torch.manual_seed(0)
    compare, logits, error = ClassDivergence(1), torch.randn(50, 4, dtype=torch.float64), 0.02 * torch.randn(50, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    squares = [float((compare.direction(logits, generator) * error).sum(1).square().sum()) / 2 for _ in range(2000)]
    assert sum(squares) / 2000 == pytest.approx(compare(logits + error, logits)[0], rel=0.05)


def test_examples_are_counted_and_cut_into_parts() -> None:
    batches = [{"a": torch.arange(10).reshape(5, 2), "b": 3}, {"a": torch.arange(6).reshape(3, 2), "b": 3}]
    reference = Reference(batches, [torch.zeros(5, 4, 7), torch.zeros(3, 4, 7)], class_axis=1)
    assert (reference.examples, reference.distributions) == (8, 8 * 7)
    assert [part["a"].tolist() for part in reference.parts(2)] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9]], [[0, 1], [2, 3]], [[4, 5]]]
    assert len(reference.parts(2, examples=3)) == 2


@pytest.mark.parametrize(
    ("shape", "axis", "kind"), [((2, 5), 1, ClassDivergence), ((2, 1), 1, ValueDivergence), ((2, 5), None, ValueDivergence)]
)
def test_one_logit_is_a_value(shape: tuple[int, ...], axis: int | None, kind: type) -> None:
    assert isinstance(Reference([torch.zeros(2)], [torch.randn(shape)], axis).compare, kind)
