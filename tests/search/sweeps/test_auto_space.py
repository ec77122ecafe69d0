"""The choices of "auto": everything that is offered is legal on the device, and nothing that could not be better is."""

import itertools

import pytest
from torch import nn, randn

from hw_models.loading import device_names, load_device
from hw_models.table import build_table
from quant_core.network.trace import trace
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError
from search.config.files import dumps, loads
from search.sweeps.auto_space import auto_choices
from search.sweeps.plan import build_space

TEXT = '[task]\nname = "digits"\n[device]\nname = "{device}"\n[space]\n{space}\n'


def _layers(*modules: nn.Module) -> list:
    return list(trace(nn.Sequential(*modules).eval(), randn(1, 3, 16, 16)))


CNN = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8 * 12 * 12, 10))


@pytest.mark.parametrize("device", device_names())
def test_every_choice_is_legal_on_every_device_that_ships(device: str) -> None:
    layers, loaded = _layers(*CNN), load_device(device)
    try:
        chosen = auto_choices(loaded, layers)
    except InputError:  # as the test below has it
        assert any(loaded.legal(layer).run_as(LayerPolicy(parse("int8:channel"), parse("int8:tensor"))) is None for layer in layers)
        return
    for layer in layers:
        for weight, activation in itertools.product(*chosen[layer.name]):
            assert loaded.legal(layer).allows(LayerPolicy(weight, activation))
    space = build_space(layers, loads(TEXT.format(device=device, space='weight = "auto"\nactivation = "auto"')).space, loaded)
    if loaded.file.identity.kind != "lut":  # a table of measured layers knows no others
        build_table(loaded, layers, space.layer_choices)


def test_activations_that_run_as_wider_ones_are_left_out() -> None:
    layers = _layers(*CNN)
    on_cpu = auto_choices(load_device("generic-cpu"), layers)[layers[0].name]
    assert [str(spec) for spec in on_cpu[1]] == ["int8:tensor:mse"]
    assert [spec.bits for spec in on_cpu[0]] == [2, 3, 4, 5, 6, 8]
    bitserial = auto_choices(load_device("vu9p-bitserial"), layers)[layers[0].name]
    assert [spec.bits for spec in bitserial[1]] == [4, 6, 8]


def test_auto_is_a_word_of_the_experiment_file() -> None:
    short = loads('space = "auto"\n[task]\nname = "digits"\n[device]\nname = "counts"\n').space
    assert short.weight == short.activation == ()
    half = loads(TEXT.format(device="vu9p-bitserial", space='weight = ["int4:channel:mse", "int8:channel"]\nactivation = "auto"'))
    assert loads(dumps(half)) == half
    layers = _layers(*CNN)
    space = build_space(layers, half.space, load_device("vu9p-bitserial"))
    choices = space.layer_choices[layers[0].name]
    assert {str(choice.weight) for choice in choices} == {"int4:channel:mse", "int8:channel"}
    assert {choice.activation.bits for choice in choices} == {4, 6, 8}


def test_a_layer_that_the_device_does_not_run() -> None:
    layers = list(trace(nn.Sequential(nn.ConvTranspose2d(3, 4, 3)).eval(), randn(1, 3, 8, 8)))
    with pytest.raises(InputError, match=r"layer '0' \(conv_transpose\): stm32h743-cmsis-nn runs it in no format"):
        auto_choices(load_device("stm32h743-cmsis-nn"), layers)
