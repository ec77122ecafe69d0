"""Functions of a whole set, and objects in the form of torchmetrics."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quant_core.util.errors import BitfrontError
from search.tasks.metrics.metric import Metric, metric
from search.tasks.metrics.own import number
from search.tasks.metrics.state import Judged

X = torch.arange(12.0).view(6, 2)


class Largest:
    """A metric object: the largest output."""

    higher_is_better = False

    def __init__(self) -> None:
        self.largest = 99.0

    def update(self, outputs: Tensor, _targets: Tensor) -> None:
        self.largest = max(self.largest, float(outputs.max()))

    def compute(self) -> Tensor:
        return torch.tensor(self.largest)

    def reset(self) -> None:
        self.largest = -1.0


def value(entry: Metric, *batches: tuple[Any, ...]) -> float:
    state = entry.start()
    for batch in batches:
        state.update(Judged(*batch))
    return state.values()[0]


def test_a_function_is_given_the_whole_set() -> None:
    shapes: list[Any] = []

    def spread(outputs: Tensor, targets: Any) -> float:
        shapes.append((outputs.shape, {name: part.shape for name, part in targets["boxes"].items()}, targets["names"]))
        return float(outputs.std())

    targets = [{"boxes": {"x": X[a:b]}, "names": [f"{a}"]} for a, b in ((0, 4), (4, 6))]
    assert value(metric(spread), (X[:4], targets[0]), (X[4:], targets[1])) == pytest.approx(float(X.std()))
    assert shapes == [((6, 2), {"x": (6, 2)}, ["0", "4"])]


def test_sample_weights_are_the_third_argument() -> None:
    weighted = metric(lambda outputs, _targets, weights: (outputs[:, 0] * weights).sum(), "weighted")
    assert value(weighted, (X[:4], None, torch.ones(4)), (X[4:], None, torch.zeros(2))) == float(X[:4, 0].sum())


def test_an_object_is_copied_and_starts_anew_for_every_set() -> None:
    largest = Largest()
    entry = metric(largest)
    assert value(entry, (X, X), (X - 20, X)) == 11.0
    assert value(entry, (X - 5, X)) == 6.0
    assert largest.largest == 99.0  # the user's is untouched
    assert (entry.name, entry.infos[0].higher) == ("largest", False)


@pytest.mark.parametrize("figure", [3, 3.0, torch.tensor([3.0]), np.float32(3), np.asarray([3.0])])
def test_one_number_may_have_many_types(figure: object) -> None:
    assert number(figure, "mine") == 3.0


@pytest.mark.parametrize("figure", ["3", None, [3.0], torch.ones(2), np.ones(2), {"map": 3.0}])
def test_anything_else_is_refused(figure: object) -> None:
    with pytest.raises(BitfrontError, match=r"metric 'mine' gave a .*; one number for the whole set is needed"):
        number(figure, "mine")


def test_an_object_takes_no_weights() -> None:
    with pytest.raises(BitfrontError, match="takes no sample weights; leave them out of the batch, or give a function"):
        value(metric(Largest()), (X, X, torch.ones(6)))


def test_objects_of_torchmetrics_are_taken() -> None:
    regression = pytest.importorskip("torchmetrics.regression", reason="torchmetrics is not installed")
    entry = metric(regression.MeanSquaredError())
    assert value(entry, (X, X + 1), (X, X + 3)) == pytest.approx(5.0)
    assert not entry.infos[0].higher
