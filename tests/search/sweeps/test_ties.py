"""Default ties: needed by a device or a format, shown, taken away by a rule, and absent otherwise."""

import pytest
import torch
from torch import nn

import bitfront
from quant_core.util.errors import InputError
from search.config.experiment import Experiment
from search.sweeps.setup import Setup, prepare
from search.sweeps.ties import summary
from tests.quant_core.network.test_agreement import Block, Residuals

CHOICES = {"weight": ["int4:channel", "int8:channel"], "activation": ["int4:tensor", "int8:tensor"]}
OF_VLLM = {"weight": ["int8:tensor", "int8:channel"], "activation": ["int8:token", "int8:tensor"]}


def task(model: nn.Module, inputs: torch.Tensor) -> bitfront.Task:
    data = [(inputs, torch.zeros(len(inputs), dtype=torch.long))]
    return bitfront.Task(model.eval(), train=data, calib=data, valid=data, test=data)


def setup(model: nn.Module, inputs: torch.Tensor, device: str = "counts", formats: tuple[str, ...] = (), **space: object) -> Setup:
    data = {"task": {"name": "t"}, "space": {**CHOICES, **space}, "device": {"name": device}, "export": {"formats": formats}}
    return prepare(Experiment.model_validate(data), task(model, inputs))


def language(**given: object) -> Setup:
    model = nn.Sequential(Block(), nn.Flatten(), nn.Linear(40, 2))
    return setup(model, torch.randn(4, 5, 8), **OF_VLLM | given)  # type: ignore[arg-type]


def test_nothing_is_tied_where_nothing_needs_it() -> None:
    assert language().ties == ()
    assert len(language().space.dimensions) == 2 * 8


def test_a_format_with_fused_products_ties_their_layers() -> None:
    made = language(formats=("vllm",))
    layers = {(tie.slot, tie.layers) for tie in made.ties}
    expected = {(slot, names) for slot in ("weight", "activation") for names in (("0.q", "0.k", "0.v"), ("0.gate", "0.up"))}
    assert layers == expected
    assert len(made.space.dimensions) == 2 * (8 - 3)
    policy = made.space.policy([0] * len(made.space.dimensions))
    assert policy["0.q"] == policy["0.k"] == policy["0.v"]
    assert "weight of 0.q, 0.k, 0.v (format vllm)" in summary(made.ties)


def test_a_device_of_integers_ties_the_operands_of_sums() -> None:
    model, inputs = Residuals(), torch.randn(2, 3, 6, 6)
    assert [(tie.slot, tie.layers, tie.reason) for tie in setup(model, inputs, "mpic").ties] == [("activation", ("a", "c"), "device mpic")]
    assert setup(model, inputs).ties == ()


def test_a_rule_takes_layers_out_of_the_ties() -> None:
    rules = [{"untie": "0.q"}, {"untie": "0.gate", "slot": "weight"}]
    ties = {(tie.slot, tie.layers) for tie in language(formats=("vllm",), rules=rules).ties}
    assert ties == {("weight", ("0.k", "0.v")), ("activation", ("0.k", "0.v")), ("activation", ("0.gate", "0.up"))}


def test_a_rule_that_fixes_a_layer_holds_for_it_alone() -> None:
    made = language(formats=("vllm",), rules=[{"fix": "0.q", "weight": "int8:channel"}])
    policy = made.space.policy([0] * len(made.space.dimensions))
    assert [str(policy[f"0.{name}"].weight) for name in "qkv"] == ["int8:channel", "int8:tensor", "int8:tensor"]


def test_an_untie_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer pattern '0\.z' matches nothing"):
        language(rules=[{"untie": "0.z"}])


def test_an_untie_takes_no_choices() -> None:
    with pytest.raises(ValueError, match="an untie takes no choices"):
        language(rules=[{"untie": "0.q", "weight": "int8:channel"}])
