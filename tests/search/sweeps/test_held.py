"""What an export format cannot hold leaves the space before the search, layer by layer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bitfront
from quant_core.spec.quant_spec import FLOAT, parse
from search.config.experiment import Experiment, TaskSection
from search.exporters.gguf import refusal
from search.sweeps import context
from search.sweeps.setup import Setup, prepare

GROUPS = ["int4:group32:mse", "int8:group32:mse", "float"]


def setup(formats: tuple[str, ...], weight: list[str], activation: list[str]) -> Setup:
    network = nn.Sequential(nn.Linear(64, 172), nn.ReLU(), nn.Linear(172, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    data = [(torch.rand(4, 64), torch.zeros(4, dtype=torch.long))]
    task = bitfront.Task(network, train=data, calib=data, valid=data, test=data)
    sections = {"task": {"name": "t"}, "space": {"weight": weight, "activation": activation}, "device": {"name": "counts"}}
    return prepare(Experiment.model_validate(sections | {"export": {"formats": formats}}), task)


def test_a_layer_keeps_the_choices_that_the_format_holds() -> None:
    made = setup(("gguf",), GROUPS, ["float"])
    choices = {name: [choice.weight for choice in pairs] for name, pairs in made.space.layer_choices.items()}
    assert choices == {"0": [parse(text) for text in GROUPS], "2": [FLOAT], "4": [parse(text) for text in GROUPS]}
    layers = {layer.name: layer for layer in made.layers}
    assert not any(refusal(layers[name], choice) for name, pairs in made.space.layer_choices.items() for choice in pairs)
    (dropped,) = made.dropped
    assert str(dropped).startswith(
        "format gguf leaves out int4:group32:mse, int8:group32:mse of 2: rows of 172 values are no multiple of GGUF's blocks of 32"
    )
    assert setup((), GROUPS, ["float"]).dropped == ()


def test_both_slots_are_looked_at() -> None:
    made = setup(("onnx",), ["int4:channel", "mxfp4"], ["int8:tensor", "int8:token"])
    assert {str(choice) for pairs in made.space.layer_choices.values() for choice in pairs} == {
        "weight=int4:channel,activation=int8:tensor"
    }
    assert {dropped.layers for dropped in made.dropped} == {("0", "2", "4")}


def test_a_layer_of_which_nothing_is_held_keeps_everything() -> None:
    made = setup(("gguf",), GROUPS[:2], ["float"])
    assert [str(choice.weight) for choice in made.space.layer_choices["2"]] == GROUPS[:2]
    assert made.dropped == ()


@pytest.mark.parametrize(("formats", "kept"), [((), 1), (("gguf",), 0)])
def test_a_solve_without_the_network_is_not_prepared_where_choices_were_left_out(
    formats: tuple[str, ...], kept: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    made = setup(formats, GROUPS, ["float"])
    made = replace(made, experiment=made.experiment.model_copy(update={"task": TaskSection(name="digits")}))
    context._kept(made, lambda: tuple(np.zeros(count) for count in made.space.cardinalities))
    assert len(list(tmp_path.glob("basis/*.json"))) == kept
