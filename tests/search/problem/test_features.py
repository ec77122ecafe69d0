"""The state of the HAQ agent: what it sees of each layer, scaled to [0, 1]."""

import pytest

from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import parse
from search.problem.features import BEYOND, PAPER, features
from spaces.space import Dimension

CHOICES = (parse("int2:channel"), parse("int8:channel"))
LAYERS = (
    Layer("conv", "conv", 3, 16, (16, 3, 3, 3), (32, 32), (16, 16), 100_000, kernel=(3, 3), stride=(2, 2)),
    Layer("deep", "depthwise", 16, 16, (16, 1, 5, 5), (16, 16), (16, 16), 60_000, kernel=(5, 5), stride=(1, 1), groups=16),
    Layer("head", "linear", 16, 10, (10, 16), (1,), (1,), 160),
)


def test_every_column_is_scaled_over_the_layers() -> None:
    slots = [(layer.name, slot) for layer in LAYERS for slot in ("weight", "activation")]
    seen, names = features(LAYERS, [Dimension(slot, (name,), CHOICES) for name, slot in slots])
    assert names == (*PAPER, *BEYOND)
    table = dict(zip(names, seen.T, strict=True))
    assert table["depthwise"].tolist() == [0, 0, 1, 1, 0, 0]
    assert table["activation"].tolist() == [0, 1, 0, 1, 0, 1]
    assert table["stride"].tolist() == [1, 1, 0.5, 0.5, 0, 0]  # a linear layer has stride 0
    assert table["kernel"].tolist() == [0.5, 0.5, 1, 1, 0, 0]  # and kernel 1
    assert table["index"].tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert table["in_channels"].tolist() == [0, 0, 1, 1, 1, 1]
    assert table["weights"][:2] == pytest.approx([1.0, 1.0])
    assert table["macs"][0] == 1.0
    assert ((seen >= 0) & (seen <= 1)).all()


def test_tied_layers_are_seen_as_their_mean() -> None:
    both = [Dimension("weight", ("conv", "head"), CHOICES), Dimension("weight", ("deep",), CHOICES)]
    seen, names = features(LAYERS, both)
    assert seen[:, names.index("index")].tolist() == [0.0, 0.0]  # both in the middle: a constant column is 0
    assert seen[:, names.index("depthwise")].tolist() == [0.0, 1.0]
