"""Products that parameters take part in: their axis, their multiply-accumulates, and whose they are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.products import Product, ProductRecorder

W, X = torch.randn(5, 3), torch.randn(2, 7, 3)
STACK = torch.randn(4, 5, 3)
CASES = {
    "x W'": (W, lambda w: F.linear(X, w), Product("w", 2 * 7 * 5 * 3, 1, 14)),
    "x W": (W, lambda w: X.transpose(1, 2)[..., :5] @ w, Product("w", 2 * 3 * 5 * 3, 0, 6)),
    "W x": (W, lambda w: w @ X[0].t(), Product("w", 5 * 3 * 7, 1, 7)),
    "with a bias": (W, lambda w: F.linear(X[0], w, torch.ones(5)), Product("w", 7 * 5 * 3, 1, 7)),
    "one of a stack": (STACK, lambda w: F.linear(X[0], w[2]), Product("w", 7 * 5 * 3, 2, 7)),
    "one of a stack, the other way": (STACK, lambda w: X[0].new_ones(7, 5) @ w[1], Product("w", 7 * 5 * 3, 1, 7)),
    "gathered": (STACK, lambda w: torch.bmm(w[torch.tensor([0, 2, 2])], X[0, :3, :, None]), Product("w", 3 * 5 * 3, 2, 3)),
    "cast": (W, lambda w: F.linear(X.double(), w.double()), Product("w", 2 * 7 * 5 * 3, 1, 14)),
}


def seen(parameter: Tensor, run: object, others: tuple[Tensor, ...] = ()) -> list[Product]:
    products: list[Product] = []
    with torch.no_grad(), ProductRecorder({"w": parameter}, [parameter, *others], products.append):
        run(parameter)  # type: ignore[operator]
    return products


@pytest.mark.parametrize("name", CASES)
def test_a_product_and_its_axis(name: str) -> None:
    parameter, run, product = CASES[name]
    assert seen(parameter, run) == [product]


def test_what_is_added_or_read_by_another_weight_is_no_weight_of_a_product() -> None:
    layer = nn.Linear(3, 2)
    assert seen(W, lambda w: X[0, :5] + w) == []
    assert seen(W, layer, tuple(layer.parameters())) == [], "a learned query that a layer reads"


def test_parameters_in_one_storage_are_told_apart() -> None:
    both = torch.randn(30)
    products: list[Product] = []
    parts = {"first": both[:15].view(5, 3), "second": both[15:].view(5, 3)}
    with torch.no_grad(), ProductRecorder(parts, parts.values(), products.append):
        F.linear(X, parts["second"])
    assert [product.parameter for product in products] == ["second"]
