"""bitfront: per-layer quantization policies of a PyTorch network on the Pareto front of accuracy against latency, energy and size.

The public names, and nothing else; torch and mlflow are imported when a function needs them.

    >>> import bitfront
    >>> sweep = bitfront.sweep(
    ...     "digits",
    ...     weight=["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"],
    ...     activation=["int8:tensor:mse"],
    ...     device="vu9p-bitserial",
    ...     budget={"weight_bytes": "0.25 of float"},
    ...     trials=8,
    ...     record=None,
    ...     log="none",
    ... )
    >>> front = sweep.front()
    >>> sorted(set(front["kind"]))
    ['float', 'front', 'uniform']
    >>> best = sweep.best(max_drop=2.0)
    >>> model = sweep.model(best)
    >>> model.training
    False
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitfront.compressing import compress
    from bitfront.measured import MeasuredPolicy
    from bitfront.networks import evaluate, quantize
    from bitfront.results import Sweep
    from bitfront.sweeping import load, sweep
    from hw_models.device import Device
    from hw_models.loading import load_device
    from quant_core.network.batch_norms import synthetic_inputs
    from quant_core.spec.policy import LayerPolicy, Policy
    from quant_core.spec.quant_spec import QuantSpec
    from quant_core.util.errors import BitfrontError, InputError
    from search.records.result import Result
    from search.tasks.batches import next_token
    from search.tasks.metrics.metric import metric
    from search.tasks.task import Task
    from spaces.space import Space

__all__ = [
    "BitfrontError",
    "Device",
    "InputError",
    "LayerPolicy",
    "MeasuredPolicy",
    "Policy",
    "QuantSpec",
    "Result",
    "Space",
    "Sweep",
    "Task",
    "compress",
    "evaluate",
    "load",
    "load_device",
    "metric",
    "next_token",
    "quantize",
    "sweep",
    "synthetic_inputs",
]

_HOMES = {
    "BitfrontError": "quant_core.util.errors",
    "Device": "hw_models.device",
    "InputError": "quant_core.util.errors",
    "LayerPolicy": "quant_core.spec.policy",
    "MeasuredPolicy": "bitfront.measured",
    "Policy": "quant_core.spec.policy",
    "QuantSpec": "quant_core.spec.quant_spec",
    "Result": "search.records.result",
    "Space": "spaces.space",
    "Sweep": "bitfront.results",
    "Task": "search.tasks.task",
    "compress": "bitfront.compressing",
    "evaluate": "bitfront.networks",
    "load": "bitfront.sweeping",
    "load_device": "hw_models.loading",
    "metric": "search.tasks.metrics.metric",
    "next_token": "search.tasks.batches",
    "quantize": "bitfront.networks",
    "sweep": "bitfront.sweeping",
    "synthetic_inputs": "quant_core.network.batch_norms",
}
"""Public name -> the module that it is imported from when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitfront' has no attribute {name!r}; its names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
