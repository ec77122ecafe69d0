"""Parameters of modules as layers of their own: names, matrices of stacks, hooks on their inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.parameters import (
    StoredParameter,
    from_matrix,
    holder,
    layer_module,
    matrix_shape,
    put_weight,
    state_name,
    to_matrix,
)
from quant_core.network.trace import trace
from quant_core.util.errors import InputError


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_as_a_matrix_and_back(axis: int) -> None:
    stack = torch.randn(4, 5, 3)
    matrix = to_matrix(stack, axis)
    assert tuple(matrix.shape) == matrix_shape((4, 5, 3), axis)
    assert torch.equal(from_matrix(matrix, (4, 5, 3), axis), stack)
    one = [0, 0, 0]
    one[axis] = slice(None)  # type: ignore[call-overload]
    assert torch.equal(matrix[0], stack[tuple(one)])


def test_names_of_modules_and_parameters() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "head": nn.Linear(4, 2)})
    assert holder(model, "head") == (model["head"], "weight")
    assert holder(model, "lstm.weight_hh_l0") == (model["lstm"], "weight_hh_l0")
    assert [state_name(model, name) for name in ("head", "lstm.weight_hh_l0")] == ["head.weight", "lstm.weight_hh_l0"]
    with pytest.raises(InputError, match=r"layer 'lstm.nothing': the network has neither a module nor a parameter of this name"):
        holder(model, "lstm.nothing")


class SelfAttending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(query=x, key=x, value=x)[0]  # type: ignore[no-any-return]


def test_a_hook_on_self_attention_changes_query_key_and_value() -> None:
    model, x = SelfAttending().eval(), torch.randn(2, 3, 4)
    (layer, *_) = trace(model, x)
    module = layer_module(model, layer)
    assert isinstance(module, StoredParameter)
    assert not layer.weight_only
    with torch.no_grad():
        expected = model(2 * x)

        def double(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            return tuple(2 * argument for argument in args), kwargs

        module.register_forward_pre_hook(double, with_kwargs=True)
        torch.testing.assert_close(model(x), expected)


def test_a_weight_that_is_put_is_computed_with() -> None:
    lstm, x = nn.Sequential(nn.LSTM(3, 4)), torch.randn(2, 5, 3)
    weight = torch.zeros(16, 4)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = lstm[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]  # type: ignore[no-any-return]

    model = First()
    layers = {layer.name: layer for layer in trace(model, x)}
    before = model(x)
    put_weight(layer_module(model, layers["lstm.weight_hh_l0"]), weight)
    assert torch.equal(model.lstm.weight_hh_l0, weight)
    assert not torch.equal(model(x), before)
    with pytest.raises(InputError, match="no hook reaches its input"):
        layer_module(model, layers["lstm.weight_hh_l0"]).register_forward_pre_hook(lambda *_: None, with_kwargs=True)
