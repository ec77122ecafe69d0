"""The part of a network's outputs that is judged."""

import copy
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.forward import call, forward, to_device
from quant_core.network.outputs import further_outputs, judged_output, with_output
from quant_core.util.errors import BitfrontError, InputError

A, B = torch.zeros(2, 3), torch.ones(2, 4)
Pair = namedtuple("Pair", "boxes scores")


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Gives(nn.Module):
    """Returns the same whatever it is called with."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs, self.layer = outputs, nn.Linear(1, 1)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.outputs


@pytest.mark.parametrize(
    "outputs",
    [B, Output(None, B), OrderedDict(loss=A, logits=B), UserDict(hidden=A, logits=B), (B, A), [[B], A], {"x": None, "y": [B]}, Pair(B, A)],
    ids=str,
)
def test_the_logits_are_judged_else_the_first_tensor(outputs: Any) -> None:
    assert forward(Gives(outputs), A) is B


@pytest.mark.parametrize(
    ("outputs", "output"),
    [
        ({"a": A, "b": B}, "b"),
        ((A, B), "1"),
        ((A, {"b": [A, B]}), "1.b.1"),
        (Output(A, B), "logits"),
        (Pair(A, B), "scores"),
        ([{"b": B}], lambda outputs: outputs[0]["b"]),
    ],
)
def test_a_named_output_is_judged_also_by_copies(outputs: Any, output: Any) -> None:
    model = Gives(outputs)
    named = with_output(model, output)
    assert forward(named, A) is B
    assert torch.equal(forward(copy.deepcopy(named), A), B)
    assert named.layer is model.layer
    assert "bitfront_output" not in vars(model)  # the user's network is as it was
    assert with_output(model, "") is model


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no part 'boxes': a dict with the parts a, b; name one of its parts as output"):
        judged_output(with_output(Gives(None), "boxes"), {"a": A, "b": B})
    with pytest.raises(InputError, match=r"no part '0.x': a Tensor of shape"):
        judged_output(with_output(Gives(None), "0.x"), (A,))
    with pytest.raises(BitfrontError, match=r"output '0' gave a tuple with the parts 0, 1; a tensor is needed"):
        judged_output(with_output(Gives(None), "0"), ((A, B),))
    with pytest.raises(BitfrontError, match="the network gave a NoneType; a tensor is needed"):
        judged_output(Gives(None), None)


def test_inputs_may_be_mappings_of_any_kind() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sum() + b.sum()

    for inputs in ({"a": A, "b": B}, UserDict(a=A, b=B), (A, B), Pair(A, B)):
        assert call(Sum(), inputs) == B.sum()


def test_structures_keep_their_types_on_another_device() -> None:
    moved = to_device(Pair({"x": A}, [B, "name"]), torch.device("meta"))
    assert type(moved) is Pair
    assert moved.boxes["x"].device.type == moved.scores[0].device.type == "meta"
    assert moved.scores[1] == "name"


def test_outputs_beside_the_named_one_are_the_other_tensors() -> None:
    parts = [torch.ones(2, 3), torch.zeros(2, 4), torch.arange(2), torch.tensor(1.0)]
    outputs = {"scores": parts[0], "boxes": [parts[1], parts[2]], "temperature": parts[3]}
    named = with_output(nn.Identity(), "scores")
    assert further_outputs(named, outputs, judged_output(named, outputs)) == [parts[1]]
    assert further_outputs(nn.Identity(), outputs, parts[0]) == []
