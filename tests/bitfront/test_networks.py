"""One network and one policy: `quantize` and `evaluate`."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import bitfront
from search.evaluation.measure import measure

TEXT = "weight=int4:channel:mse,activation=int6:tensor:mse"


def test_quantize_gives_the_network_that_evaluate_measures(task: bitfront.Task) -> None:
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    measured = bitfront.evaluate(task, TEXT)
    model = bitfront.quantize(task.model, TEXT, task.calib)
    for split in ("valid", "test"):
        figures = measure(model, getattr(task, split), task)
        assert figures["accuracy"] == measured[f"accuracy_{split}"]
        assert figures["loss"] == pytest.approx(measured[f"loss_{split}"], rel=1e-6)
        assert measured[f"accuracy_float_{split}"] == measure(task.model, getattr(task, split), task)["accuracy"]
    assert measured["weight_bytes"] < measured["float_weight_bytes"] / 4
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_the_network_is_on_a_grid_and_can_be_copied_and_pickled(task: bitfront.Task) -> None:
    inputs = task.valid[0][0]  # type: ignore[index]
    model = bitfront.quantize(task.model, TEXT, task.calib)
    assert not model.training
    assert all(len(row.unique()) <= 16 for row in model.get_submodule("2").get_parameter("weight"))
    seen: list[torch.Tensor] = []
    model.get_submodule("2").register_forward_hook(lambda _module, arguments, _output: seen.append(arguments[0]))
    outputs = model(inputs)
    assert len(seen[0].unique()) <= 64
    for other in (
        copy.deepcopy(bitfront.quantize(task.model, TEXT, task.calib)),
        pickle.loads(pickle.dumps(bitfront.quantize(task.model, TEXT, task.calib))),
    ):
        assert torch.equal(other(inputs), outputs)


def test_calibration_takes_inputs_or_batches_of_a_task(task: bitfront.Task) -> None:
    inputs = task.calib[0][0]  # type: ignore[index]
    forms = (inputs, [inputs], iter([inputs]), task.calib, (inputs,))
    outputs = [bitfront.quantize(task.model, TEXT, calibration)(inputs) for calibration in forms]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    for wrong, message in (([], "no calibration batch given"), (3, "a int given as calibration")):
        with pytest.raises(bitfront.InputError, match=message):
            bitfront.quantize(task.model, TEXT, wrong)


def test_a_policy_is_taken_in_every_form(task: bitfront.Task) -> None:
    measured = bitfront.evaluate(task, TEXT, valid=50, test=50)
    layer = next(iter(measured.policy.values()))
    shuffled = bitfront.Policy(dict(reversed(list(measured.policy.items()))))
    for policy in (measured, measured.policy, shuffled, layer):
        assert bitfront.evaluate(task, policy, valid=50, test=50).policy == measured.policy
    with pytest.raises(bitfront.InputError, match=r"the policy is for another network: it lacks .* and has .* beside it"):
        bitfront.evaluate(task, bitfront.Policy({"other": layer}))
    with pytest.raises(bitfront.InputError, match="write 'weight="):
        bitfront.quantize(task.model, "int4", task.calib)


def test_a_model_in_training_mode_is_left_so(task: bitfront.Task) -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    before = copy.deepcopy(model.state_dict())
    quantized = bitfront.quantize(model, TEXT, task.calib)
    assert model.training
    assert not quantized.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["digits", "search.tasks.digits:digits"])
def test_a_task_by_name(name: str) -> None:
    measured = bitfront.evaluate(name, "weight=float,activation=float", valid=40, test=40)
    assert measured["accuracy_valid"] == measured["accuracy_float_valid"]
    assert measured["bits_weight_avg"] == 32
    wrong: Any = "nothing:there"
    with pytest.raises(bitfront.InputError, match="cannot import 'nothing'"):
        bitfront.evaluate(wrong, TEXT)
