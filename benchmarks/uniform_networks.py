"""The networks of `benchmarks.uniform`: what they choose from, under which budgets, and how many examples stand for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quant_core.network.forward import forward
from quant_core.network.outputs import judged_output
from quant_core.spec.policy import Policy
from search.config.experiment import Experiment
from search.problem.problem import FloatArray
from search.sweeps.context import SweepContext

GPTQ = tuple(f"int{bits}:channel:mse:gptq" for bits in (2, 3, 4, 5, 6, 8))


@dataclass(frozen=True)
class Setting:
    """One network.

    Attributes:
        options: of its task.
        sensitivity: how single choices are estimated.
        seeds: how many; `trained`: each trains the network anew, else it is the searcher's alone.
        proposals: of a searcher, beside the uniform policies.
        weight, activation: choices.
        device, metrics: what a budget limits; `weight_bytes` is one of them.
        budgets: weight bits of the uniform policies whose costs are the budgets.
    """

    options: Mapping[str, Any]
    seeds: int
    proposals: int
    weight: Sequence[str] = GPTQ
    activation: Sequence[str] = ("int8:tensor:mse",)
    device: str = "counts"
    metrics: tuple[str, ...] = ("weight_bytes",)
    budgets: tuple[int, ...] = (3, 4, 5, 6)
    trained: bool = False
    data: bool = True
    sensitivity: str = "gradient"


SETTINGS = {
    "digits": Setting(
        {},
        seeds=5,
        proposals=10,
        weight=tuple(f"int{bits}:channel:mse" for bits in (2, 3, 4, 5, 6, 8)),
        activation=tuple(f"int{bits}:tensor:octav" for bits in (4, 5, 6, 8)),
        device="vu9p-bitserial",
        metrics=("weight_bytes", "latency_s"),
        trained=True,
        sensitivity="auto",
        data=False,
    ),
    "llama10m": Setting({"valid_size": 8, "test_size": 48, "calib_size": 16}, seeds=1, proposals=6, data=False),
    "minilm_sts": Setting({"valid_size": 64, "test_size": 192, "length": 32, "batch_size": 32}, seeds=1, proposals=6),
    "efficientnet_lite0": Setting({"calib_size": 32, "valid_size": 50, "test_size": 100, "batch_size": 50}, seeds=1, proposals=4),
}


def experiment(name: str, setting: Setting, data: str, seed: int) -> Experiment:
    """Return the experiment of one network, without a budget."""
    options = dict(setting.options) | ({"seed": seed} if setting.trained else {}) | ({"path": data} if setting.data and data else {})
    return Experiment.model_validate(
        {
            "task": {"name": name, "options": options},
            "space": {"weight": list(setting.weight), "activation": list(setting.activation)},
            "device": {"name": setting.device, "objectives": ["loss"]},
            "evaluate": {"cache_mib": 1024, "sensitivity": setting.sensitivity},
        }
    )


def example_losses(context: SweepContext, policy: Policy) -> FloatArray:
    """Return [N]: the loss of a policy on every example of the test split."""
    task, losses = context.setup.task, []
    with torch.inference_mode():
        model = context.evaluator.engine.apply(policy)
        for inputs, targets in task.test:
            outputs = judged_output(task.model, forward(model, inputs))
            losses += [float(task.loss(outputs[n : n + 1], targets[n : n + 1])) for n in range(len(outputs))]
    return np.array(losses)
