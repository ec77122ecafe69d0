"""What is learned of the range of the network's own input: its gradient, with and without the gradient of that input."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant_core import Policy, parse_layer_policy
from quant_core.network.statistics import collect
from quant_core.network.trace import quantizable, trace
from quant_core.qat.input import INPUT
from quant_core.qat.prepare import finalize, prepare

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (6, 7)),
    "linear on tokens": (lambda: nn.Linear(7, 5, bias=False), (3, 4, 7)),
    "conv1d": (lambda: nn.Conv1d(2, 5, 3, stride=2), (6, 2, 9)),
    "conv2d": (lambda: nn.Conv2d(1, 4, 5, stride=2, padding=2), (6, 1, 11, 11)),
    "conv2d, circular, grouped": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=2, dilation=2, padding_mode="circular"), (6, 4, 8, 8)),
    "conv2d, same": (lambda: nn.Conv2d(2, 4, 3, padding="same"), (6, 2, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(1, 3, 3), (4, 1, 5, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 2), (4, 2, 5, 5)),
}
METHODS = {"lsq": "step", "pact": "clip"}
TEXT = "weight=int4:channel,activation=int4:tensor:mse"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def prepared(layer: str, method: str, text: str = TEXT) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[layer]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(make(), nn.Tanh())
    x = drawn(*shape)
    statistics = collect(model, trace(model, x), [x])
    return prepare(model, Policy(dict.fromkeys(quantizable(model), parse_layer_policy(text))), method, statistics=statistics), x


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and the gradient of every parameter, for an incoming gradient drawn at random."""
    model = copy.deepcopy(model).train()
    output = model(x)
    output.backward(drawn(*output.shape, seed=1) - 0.5)
    assert all(parameter.grad is not None for parameter in model.parameters())
    return output.detach(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", METHODS)
def test_an_input_that_needs_no_gradient_changes_no_other(layer: str, method: str) -> None:
    model, x = prepared(layer, method)
    output, results = gradients(model, x)
    expected, aims = gradients(model, x.clone().requires_grad_())
    assert torch.equal(output, expected)
    assert results.keys() == aims.keys()
    assert float(aims[f"0.{INPUT}.{METHODS[method]}"]) != 0
    for name, aim in aims.items():
        torch.testing.assert_close(results[name], aim, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_images_is_not_computed(method: str) -> None:
    model, x = prepared("conv2d", method)
    for images, needed in ((x, False), (x.clone().requires_grad_(), True)):
        node = model[0](images).grad_fn
        while "Convolution" not in node.name():
            node = node.next_functions[0][0]
        assert (node.next_functions[0][0] is not None) == needed


def test_layers_that_are_called_twice_learn_from_both_calls() -> None:
    model, x = prepared("linear on tokens", "lsq")
    other = drawn(*x.shape, seed=2)

    def gradient(*inputs: Tensor) -> Tensor:
        step = model[0].get_submodule(INPUT).step
        step.grad = None
        sum(model(images).sum() for images in inputs).backward()
        return step.grad.clone()

    torch.testing.assert_close(gradient(x, other), gradient(x) + gradient(other))


def test_nothing_is_left_behind_and_nothing_happens_without_gradients() -> None:
    model, x = prepared("conv2d", "lsq")
    quantizer = model[0].get_submodule(INPUT)
    model(x)
    assert quantizer.deferred is None
    with torch.no_grad():
        assert not model(x).requires_grad
    final = finalize(model)
    assert torch.equal(final(x), model.eval()(x))
    assert not final(x).requires_grad


def test_a_range_that_follows_its_weight_moves_once_per_step() -> None:
    model, x = prepared("conv2d", "pact", "weight=int4:channel:mse,activation=int4:tensor")
    followed = model[0].parametrizations.weight[0]
    before = int(followed.steps)
    model.train()(x)
    assert int(followed.steps) == before + 1


class _Adds(nn.Module):
    """Changes the output of its first layer in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(7, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.first(x)
        hidden += x
        output: Tensor = self.last(hidden)
        return output


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(7, 9), nn.ReLU(inplace=True), nn.Linear(9, 5)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 7)), nn.Conv1d(1, 4, 3), nn.Hardswish(inplace=True), nn.Flatten(), nn.Linear(20, 5)),
        _Adds,
    ],
)
def test_what_follows_the_first_layer_may_change_its_output_in_place(make: Callable[[], nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    x = drawn(6, 7)
    statistics = collect(model, trace(model, x), [x])
    student = prepare(model, Policy(dict.fromkeys(quantizable(model), parse_layer_policy(TEXT))), "lsq", statistics=statistics)
    output, results = gradients(student, x)
    expected, aims = gradients(student, x.clone().requires_grad_())
    assert torch.equal(output, expected)
    for name, aim in aims.items():
        torch.testing.assert_close(results[name], aim, rtol=1e-4, atol=1e-6)
