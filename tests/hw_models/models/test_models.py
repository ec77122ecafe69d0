import numpy as np
import pytest

from hw_models.loading import device_names, load_device
from hw_models.models import GOLDEN_CHECKS, MODELS, LayerChoices, Model, find_check
from hw_models.schema.device_file import Compute
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.registry import load


@pytest.mark.parametrize("name", MODELS)
def test_every_name_is_a_model_whose_numbers_have_a_source(name: str) -> None:
    model = load(MODELS[name])
    assert isinstance(model, Model)
    assert issubclass(model.compute, Compute)
    assert model.compute.model_fields["source"].is_required()
    assert model.about
    for check in model.checks:
        assert callable(find_check(name, check))


@pytest.mark.parametrize("check", GOLDEN_CHECKS)
def test_every_golden_check_is_a_function(check: str) -> None:
    assert callable(find_check("counts", check))


def test_an_unknown_golden_check_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown golden check 'uniform_count'; known: entries, .* Did you mean 'uniform_counts'"):
        find_check("counts", "uniform_count")


def test_every_model_but_that_of_own_measurements_has_a_device() -> None:
    assert {load_device(name).file.identity.kind for name in device_names()} == set(MODELS) - {"measured"}


def test_modes_read_the_bits_of_what_runs() -> None:
    modes = LayerChoices((LayerPolicy(),) * 3, ("int4", "ternary", "float"), ("int8", "mxfp4", "float"), np.zeros(3))
    assert modes.w_bits.tolist() == [4, 2, 32]
    assert modes.a_bits.tolist() == [8, 4, 32]
