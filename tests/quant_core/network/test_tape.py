"""Tapes: what is run again gives what the network gives, with gradients."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.tape import record_tape, run


class Mixed(nn.Module):
    """Functions, methods, operators, an in-place one, a keyword input, a tuple, a constant made inside, a parameter read directly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(3, 3)
        self.shift = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        y = self.first(input=x * scale)
        y += torch.arange(6.0, device=x.device)
        left, right = y.chunk(2, dim=1)
        right = right.clone()
        right[:, 0] = left[:, 1]
        return {"logits": self.second(torch.relu_(left * 1)) + right @ torch.eye(3) + self.shift, "left": left}


def made() -> Mixed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixed().eval()


def inputs(seed: int, size: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(size, 6, generator=generator), "scale": torch.rand(size, 1, generator=generator)}


def test_a_tape_gives_what_the_network_gives_for_other_values() -> None:
    model = made()
    tape = record_tape(model, {"first": model.first, "second": model.second}, inputs(0))
    assert [node.module for node in tape.nodes if node.module] == ["first", "second"]
    values = tape.bound(inputs(1))
    with torch.no_grad():
        run(tape.nodes, values)
        assert torch.equal(values[tape.output], model(**inputs(1))["logits"])


def test_a_tape_has_the_networks_gradients() -> None:
    model = made()
    tape = record_tape(model, {"first": model.first}, inputs(0))
    values = tape.bound(inputs(1))
    run(tape.nodes, values)
    gradients = []
    for output in (values[tape.output], model(**inputs(1))["logits"]):
        (gradient,) = torch.autograd.grad(output.square().sum(), [model.first.weight])
        gradients.append(gradient)
    assert torch.allclose(*gradients, rtol=1e-6)
    assert float(gradients[0].abs().sum()) > 0


def test_calls_inside_a_watched_module_are_not_written() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 1)).eval()
    tape = record_tape(model, {"0": model[0], "0.0": model[0][0], "1": model[1]}, torch.ones(3, 2))
    assert [node.module for node in tape.nodes if node.in_place is False] == ["0", "1"]


def test_hooks_of_watched_modules_are_run_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    tape = record_tape(model, {"0": model[0]}, torch.ones(3, 2))
    model[0].register_forward_pre_hook(lambda _module, args: (args[0] * 0,))
    values = tape.bound(torch.ones(3, 2))
    run(tape.nodes, values)
    assert torch.equal(values[tape.output], model[0].bias.expand(3, 2))


def test_an_output_that_no_call_makes_is_refused() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = torch.ones(2)

        def forward(self, _x: Tensor) -> Tensor:
            return self.kept

    with pytest.raises(ValueError, match="not made by calls that a torch function mode sees"):
        record_tape(Constant(), {}, torch.ones(2))
