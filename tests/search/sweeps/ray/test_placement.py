"""Resources of trials on a cluster, without one."""

import pytest
import torch

from quant_core.network.trace import trace
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError
from search.config.evaluation import EvaluateSection
from search.config.running import RunSection
from search.evaluation.evaluator import Evaluator
from search.sweeps.ray import placement as module
from search.sweeps.ray.placement import Placement, placement
from search.tasks.task import Task

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


def run(**values: object) -> RunSection:
    """Return a section of a sweep on Ray."""
    return RunSection.model_validate({"backend": "ray", **values})


@pytest.mark.parametrize(
    ("section", "evaluator", "gpus_here", "expected"),
    [
        (run(workers=3), CPU, 0, Placement(3, 1, 0)),
        (run(workers=3), CPU, 8, Placement(3, 1, 0)),
        (run(), GPU, 1, Placement(1, 1, 1)),
        (run(workers=8), GPU, 4, Placement(4, 1, 1)),
        (run(workers=8, gpus_per_trial=0.25), GPU, 1, Placement(4, 1, 0.25)),
        (run(workers=8, gpus_per_trial=2), GPU, 4, Placement(2, 1, 2)),
        (run(workers=8, gpus_per_trial=1, address="head:6379"), CPU, 0, Placement(8, 1, 1)),
    ],
)
def test_trials_on_a_gpu_get_one_and_no_more_run_than_there_are(
    section: RunSection, evaluator: torch.device, gpus_here: int, expected: Placement
) -> None:
    resources = placement(section, evaluator, gpus_here)
    assert resources == expected
    assert resources.device == torch.device("cuda:0" if expected.gpus else "cpu")


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match=r"run.gpus_per_trial = 2 given; torch sees 1 GPUs on this machine. Give fewer, a share as in 0.5"):
        placement(run(gpus_per_trial=2), CPU, 1)
    with pytest.raises(InputError, match=r"run.device = 'mps' given with backend = 'ray', whose workers run on cpu or cuda"):
        placement(run(), torch.device("mps:0"), 0)


def test_an_evaluator_that_is_there_is_sent_as_it_is_and_another_one_moved() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    torch.manual_seed(0)
    batches = [(torch.randn(8, 6), torch.randint(0, 3, (8,)))]
    model = torch.nn.Sequential(torch.nn.Linear(6, 3)).eval()
    task = Task(model, batches, batches, batches, batches)
    layers = trace(model, batches[0][0])
    evaluator = Evaluator(task, layers, EvaluateSection())
    policy = Policy({layer.name: LayerPolicy(parse("int4:channel"), parse("int8:tensor")) for layer in layers})
    before = evaluator.metrics(policy, "valid")
    assert module.sent(evaluator) is evaluator
    moved = module.relocated(evaluator, "cpu", cloudpickle)
    assert moved is not evaluator
    assert moved.metrics(policy, "valid") == before
    there = module.placed(evaluator, torch.device("meta"))
    assert isinstance(there, Evaluator)
    assert there.device.type == "meta"
    assert there.engine.model[0].weight.device.type == "meta"  # type: ignore[index, union-attr]
    assert evaluator.device == CPU
