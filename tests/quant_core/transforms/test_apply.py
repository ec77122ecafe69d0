import warnings

import pytest
import torch
from torch import nn

from quant_core import InputError
from quant_core.network.faithful import difference
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import parse_layer_policy
from quant_core.transforms.apply import TransformWarning, transformed, untied
from quant_core.util.errors import BitfrontError
from spaces.rules import uniform_policy
from tests.quant_core.transforms.networks import inputs_of, plain, transformer

W4A4 = parse_layer_policy("weight=int4:channel:mse,activation=int4:tensor:mse")


def test_none_is_the_network_itself() -> None:
    model = plain()
    assert transformed(model, "none", [torch.randn(2, 64)]).model is model


@pytest.mark.filterwarnings("ignore:weights that belong to no quantizable layer")
def test_four_bits_are_nearer_to_the_float_network_under_each_transform() -> None:
    torch.manual_seed(0)
    model, x = plain(32), torch.randn(128, 64)
    off = {}
    for name in ("none", "smooth", "rotate"):
        network = transformed(model, name, [x]).model
        engine = PostTraining(network, trace(network, x), [x], x)
        with torch.no_grad():
            off[name] = float((engine.apply(uniform_policy(engine.layers, W4A4))(x) - model(x)).square().mean())
        assert engine.calibration_passes <= 2
    assert off["smooth"] < 0.8 * off["none"]
    assert off["rotate"] < 0.8 * off["none"]


def test_what_is_left_is_said_in_one_sentence() -> None:
    pytest.importorskip("transformers")
    with pytest.warns(TransformWarning, match=r"network = 'rotate': the residual stream is not rotated, as .*; applied: the values of 2"):
        transformed(transformer("bert"), "rotate", [inputs_of("bert")])
    with pytest.warns(TransformWarning, match="network = 'smooth': nothing is smoothed"):
        transformed(nn.Sequential(nn.Linear(8, 8)).eval(), "smooth", [torch.randn(4, 8)])


def test_unknown_names_and_other_types_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown network transform 'rotated'; known: none, rotate, smooth.*rotate"):
        transformed(plain(), "rotated", [torch.randn(2, 64)])
    with pytest.raises(InputError, match=r"float32 is needed: give it as model\.float\(\)"):
        transformed(plain().bfloat16(), "rotate", [torch.randn(2, 64).bfloat16()])


def test_a_network_that_keeps_state_is_refused() -> None:
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = plain(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            y: torch.Tensor = self.net(x) + self.calls
            return y

    with pytest.raises(BitfrontError, match="the transformed network gives other outputs"):
        transformed(Drifting().eval(), "rotate", [torch.randn(2, 64)])


def test_layers_are_untied_where_a_transform_parts_them() -> None:
    pytest.importorskip("transformers")
    model, ids = transformer("llama", tie_word_embeddings=True), inputs_of("llama")
    layers = trace(model, ids)
    tied = {layer.name: layer.tied_to for layer in layers if layer.tied_to}
    assert tied == {"lm_head": "model.embed_tokens"}
    for names, expected in ((["none"], tied), (["smooth"], tied), (["none", "rotate"], {})):
        assert {layer.name: layer.tied_to for layer in untied(layers, model, names, [ids]) if layer.tied_to} == expected


def test_a_transformed_network_in_double_precision_is_exact_to_its_rounding() -> None:
    model, x = plain().double(), torch.randn(4, 64, dtype=torch.float64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert difference(transformed(model, "rotate", [x]).model(x), model(x)) < 1e-10
