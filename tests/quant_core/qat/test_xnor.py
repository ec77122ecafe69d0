"""Finalized binary layers run through the XNOR-popcount kernel."""

import copy

import pytest
import torch
from torch import Tensor, nn

from quant_core.qat.prepare import finalize
from quant_core.qat.xnor import XnorConv2d, XnorLinear, with_xnor
from tests.quant_core.qat.prepare_cases import built, example, prepared, take_steps


class Signs(nn.Module):
    """Binary convolutions with padding, stride, dilation and groups, and a binary linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=(2, 1), dilation=(2, 1), groups=2, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.last = nn.Linear(12 * 16, 7)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.norm(self.second(self.first(x))).flatten(1))
        return logits


@pytest.mark.parametrize("text", ["weight=binary:none,activation=binary:none", "weight=binary:channel,activation=binary:tensor"])
def test_binary_layers_run_through_the_xnor_kernel_with_the_integers_of_the_simulation(text: str) -> None:
    qat = prepared(built(Signs), text, "binary")
    take_steps(qat)
    final = finalize(qat)
    kernel = with_xnor(final)
    assert [type(kernel.get_submodule(name)) for name in ("first", "second", "last")] == [XnorConv2d, XnorConv2d, XnorLinear]
    integers: dict[str, Tensor] = {}
    for name in ("first", "second", "last"):
        simulated: nn.Module = final.get_submodule(name)

        def compare(module: nn.Module, args: tuple[Tensor, ...], name: str = name, simulated: nn.Module = simulated) -> None:
            assert isinstance(module, XnorConv2d | XnorLinear)
            signs = copy.deepcopy(simulated)
            del signs._forward_pre_hooks[next(iter(signs._forward_pre_hooks))]
            weight, bias = signs.get_parameter("weight"), signs._parameters.get("bias")
            weight.copy_(torch.where(weight >= 0, 1.0, -1.0))
            if bias is not None:
                bias.zero_()
            integers[name] = module.integers(args[0])
            assert torch.equal(integers[name].float(), signs(torch.where(args[0] >= 0, 1.0, -1.0)))

        kernel.get_submodule(name).register_forward_pre_hook(compare)
    with torch.no_grad():
        outputs, expected = kernel(example(final)), final(example(final))
    assert set(integers) == {"first", "second", "last"}
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    if "none" in text:
        assert torch.equal(outputs, expected)


def test_only_binary_layers_go_through_the_xnor_kernel() -> None:
    final = finalize(prepared(built(Signs), "weight=binary:channel,activation=int8:tensor", "binary"))
    assert not any(isinstance(module, XnorConv2d | XnorLinear) for module in with_xnor(final).modules())
