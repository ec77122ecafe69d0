"""An all-float policy gives the network's own outputs, for networks whose classes, hooks and ties are not torch's plain ones."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network import faithful
from quant_core.network.faithful import UnfaithfulFoldWarning, difference, fold_faithfully
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError
from tests.quant_core.network.test_linearity import LowRank, SamePadding, Standardized


class NormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the activation is part of the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


def hooked_norm() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model[1].register_forward_hook(lambda _m, _i, output: output.abs())
    return model


def hooked_layer() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    model[0].register_forward_hook(lambda _m, _i, output: output.clamp(min=0))
    model[3].register_forward_pre_hook(lambda _m, inputs: (2 * inputs[0],))
    return model


class Shared(nn.Module):
    """One stored weight under two parameters, one of them before a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1, bias=False)
        self.two.weight.data = self.one.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.norm(self.one(x))))  # type: ignore[no-any-return]


def mixed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), NormAct(8), SamePadding(8, 4, 2), nn.BatchNorm2d(4))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "norm-act": lambda: nn.Sequential(nn.Conv2d(6, 8, 3), NormAct(8), nn.Conv2d(8, 4, 1)),
    "norm-act after transposed": lambda: nn.Sequential(nn.ConvTranspose2d(6, 8, 2, stride=2), NormAct(8), nn.Conv2d(8, 4, 1)),
    "weight-standardized": lambda: nn.Sequential(Standardized(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
    "padding in forward": lambda: nn.Sequential(SamePadding(6, 8, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
    "low-rank adapter": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), LowRank(), nn.BatchNorm1d(4), nn.Linear(4, 4)),
    "hook on a norm": hooked_norm,
    "hooks on layers": hooked_layer,
    "one storage, two parameters": Shared,
    "synchronized norm": lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.SyncBatchNorm(8), nn.Conv2d(8, 4, 1)),
    "mixed": mixed,
}


def trained_like(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose norms have statistics, in eval mode, and a batch."""
    torch.manual_seed(0)
    model, x = ZOO[name](), torch.randn(16, 6, 8, 8)
    if "synchronized" not in name:
        model.train()
        model(x)
        model(2 * x + 1)
    else:
        model[1].running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator, index]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval(), x


@pytest.mark.filterwarnings("ignore::quant_core.util.errors.LeftInFloatWarning")  # the adapter's own two matrices
@pytest.mark.parametrize("name", ZOO)
def test_all_float_is_float_and_int8_is_near(name: str) -> None:
    model, x = trained_like(name)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(x)
        layers = trace(model, x)
        engine = PostTraining(model, layers, [x], x)
        assert difference(engine.restore()(x), expected) <= 1e-4
        assert (
            difference(engine.apply(Policy({name: parse_layer_policy("weight=int8:channel") for name in engine._layers}))(x), expected)
            < 0.05
        )
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_what_can_be_folded_is() -> None:
    folded = fold_faithfully(*trained_like("mixed"))
    assert [type(module).__name__ for module in folded] == ["Conv2d", "Identity", "Conv2d", "NormAct", "SamePadding", "Identity"]  # type: ignore[union-attr]


def test_a_fold_that_changes_outputs_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the rules had let an activation be folded away."""
    from quant_core.network import fold

    model, x = trained_like("mixed")
    monkeypatch.setattr(fold, "is_torchs_own", lambda _module: True)
    with pytest.warns(UnfaithfulFoldWarning, match="batch norms after 2 are not folded"):
        folded = fold_faithfully(model, x)
    assert [type(module).__name__ for module in folded][:4] == ["Conv2d", "Identity", "Conv2d", "NormAct"]  # type: ignore[union-attr]
    with torch.no_grad():
        assert difference(folded(x), model(x)) <= 1e-4


def test_a_network_that_counts_its_calls_is_refused() -> None:
    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x) * self.calls

    with pytest.raises(BitfrontError, match=r"gives other outputs than the network itself, off by .* of the largest: it keeps state"):
        fold_faithfully(nn.Sequential(Counting(3, 2)).eval(), torch.randn(4, 3))


def test_difference_stands_what_is_not_finite() -> None:
    x = torch.tensor([1.0, float("inf"), float("nan")])
    assert difference(x, x) == 0.0
    assert difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])) == float("inf")
    assert difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert difference(torch.tensor([0.5]), torch.tensor([0.0])) == 0.5
    assert faithful.TOLERANCES[torch.float32] == 1e-3


@pytest.mark.parametrize("text", ["int4:channel", "int4:tensor", "int3:group3", "kmeans2:channel", "mxfp4"])
@pytest.mark.parametrize("kind", ["parameter", "storage", "transposed"])
def test_one_stored_tensor_has_one_value(kind: str, text: str) -> None:
    """A weight of a Linear and of a transposed use of it, by one Parameter, one storage, or a view with other strides."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6, bias=False)
            self.second = nn.Linear(6, 6, bias=False)
            if kind == "parameter":
                self.second.weight = self.first.weight
            else:
                self.second.weight.data = self.first.weight.data.t() if kind == "transposed" else self.first.weight.data

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randn(16, 6)
    layers = trace(model, x)
    assert [layer.tied_to for layer in layers] == ["", "first"]
    network = PostTraining(model, layers, [x], x).apply(Policy({layer.name: parse_layer_policy(f"weight={text}") for layer in layers}))
    second = network.get_submodule("second").get_parameter("weight")
    assert torch.equal(network.get_submodule("first").get_parameter("weight"), second.t() if kind == "transposed" else second)


@pytest.mark.parametrize("text", ["int4:channel", "int4:tensor", "int3:group9", "kmeans2:channel", "mxfp4"])
def test_a_convolution_and_a_transposed_one_share_one_value(text: str) -> None:
    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.dec = nn.ConvTranspose2d(8, 3, 3, padding=1, bias=False)
            self.dec.weight = self.enc.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.dec(torch.relu(self.enc(x))).mean(dim=(2, 3))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Auto().eval(), torch.randn(4, 3, 8, 8)
    layers = trace(model, x)
    network = PostTraining(model, layers, [x], x).apply(Policy({layer.name: parse_layer_policy(f"weight={text}") for layer in layers}))
    assert torch.equal(network.get_submodule("enc").get_parameter("weight"), network.get_submodule("dec").get_parameter("weight"))
