"""One engine per transform, made when it is needed, each calibrated in at most two passes."""

import pytest
import torch

from quant_core.network.trace import trace
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.sensitivity import Sensitivity
from search.evaluation.transform_choice import with_network
from search.tasks.task import Task
from spaces import rules
from tests.quant_core.transforms.networks import plain

pytestmark = pytest.mark.filterwarnings("ignore:weights that belong to no quantizable layer")
NAMES = ("none", "smooth", "rotate")
CHOICES = {
    slot: [getattr(parse_layer_policy(text), slot) for text in ("weight=int3:channel,activation=int4:tensor", "weight=int8:channel")]
    for slot in ("weight", "activation")
}


def task() -> Task:
    torch.manual_seed(1)
    model, x = plain(32), torch.randn(96, 64)
    y = model(x).argmax(dim=1)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]
    return Task(model, batches, batches, batches, batches, class_axis=-1)


def evaluator(given: Task, transforms: tuple[str, ...] = NAMES) -> Evaluator:
    return Evaluator(given, trace(given.model, given.calib[0][0]), EvaluateSection(scale_correction=True), transforms=transforms)


def test_every_transform_calibrates_twice_and_only_when_asked() -> None:
    given = task()
    made = evaluator(given)
    assert made.engines.calibration_passes == 1
    policies = {
        name: rules.uniform_policy(made.engine.layers, parse_layer_policy("weight=int4:channel:mse,activation=int4:tensor:mse"), name)
        for name in NAMES
    }
    losses = {name: made.metrics(policy, "valid")["loss"] for name, policy in policies.items()}
    assert made.engines.calibration_passes == 6
    assert len(set(losses.values())) == 3
    assert {name: made.metrics(policy, "valid")["loss"] for name, policy in policies.items()} == losses
    assert made.engines.calibration_passes == 6


def test_a_float_policy_gives_the_float_figures_under_every_transform() -> None:
    given = task()
    made = evaluator(given)
    wanted = made.float_metrics()["loss"]
    for name in NAMES:
        policy = Policy({layer.name: parse_layer_policy("weight=float") for layer in made.engine.layers}, name)
        assert made.metrics(policy, "valid")["loss"] == pytest.approx(wanted, rel=1e-4)


def test_a_transform_that_was_not_asked_for_is_refused() -> None:
    made = evaluator(task(), ("none",))
    with pytest.raises(InputError, match="network = 'rotate' given; the layers were traced for none"):
        made.metrics(Policy(dict.fromkeys((x.name for x in made.engine.layers), parse_layer_policy("weight=float")), "rotate"), "valid")


def test_training_starts_from_the_transformed_weights() -> None:
    given = task()
    layers = trace(given.model, given.calib[0][0])
    section = EvaluateSection(fidelity="qat", epochs=1)
    made = Evaluator(given, layers, section, transforms=("none", "rotate"))
    text = parse_layer_policy("weight=int8:channel,activation=int8:tensor")
    for name in ("none", "rotate"):
        result = made(rules.uniform_policy(layers, text, name))
        assert result.status == "ok", result.reason


def test_the_sensitivity_of_the_transform_is_the_last_row(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    given = task()
    made = evaluator(given)
    space = rules.transform(rules.full(made.engine.layers, CHOICES), NAMES)
    layers = Sensitivity(made.engine, space.layerwise, made.calib, "key", class_axis=-1)
    *rows, last = with_network(layers, made.engines, space)()
    assert len(rows) == len(space.dimensions)
    assert len(last) == 3
    assert last.min() == 0.0
    assert last.max() > 0.0
    assert with_network(layers, made.engines, space.layerwise) is layers
