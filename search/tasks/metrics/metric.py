"""`Metric`: a figure of a whole set, gathered batch by batch, with its direction and unit; and the metrics that a task names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from quant_core.util.errors import InputError
from quant_core.util.registry import resolve
from quant_core.util.text import given, listed
from search.tasks.metrics import METRICS
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.own import AccumulatorState, CollectingState
from search.tasks.metrics.state import Accumulator, State

_NAME = re.compile(r"[\w./: -]{1,60}", re.ASCII)
"""What MLflow takes for the name of a metric."""
_TAKEN = ("error", "loss", "epoch", "lr", "seconds", "hypervolume", "macs", "bit_ops", "bits_weight_avg", "bits_activation_avg")
_ENDINGS = ("_s", "_j", "_bytes", "_valid", "_test")


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric of a whole set.

    Attributes:
        infos: its figures; the first one is judged.
        start: returns an empty state.
        against_float: it compares with the float network and needs no targets.
        classes: it takes the outputs for logits of classes.
        of_whole: it reads all that the network returns, not the judged output alone.
    """

    infos: tuple[MetricInfo, ...]
    start: Callable[[], State]
    against_float: bool = False
    classes: bool = False
    of_whole: bool = False

    @property
    def name(self) -> str:
        """The name of the figure that is judged."""
        return self.infos[0].name


def metric(
    compute: object, name: str = "", *, higher: bool | None = None, unit: str = "", best: float | None = None, worst: float = 0.0
) -> Metric:
    """Return a metric of your own for `Task(metrics=...)`.

    Args:
        compute: (outputs, targets) -> one number for the whole set, given all batches concatenated; or a `torchmetrics.Metric`.
        name: of the figure; by default the function's.
        higher: more is better; by default so, or as the torchmetrics object says.
        unit: "%" of fractions, "dB", ...
        best: the value that nothing surpasses: 1 where higher is better, else 0. With unit "dB": none, the error is 10^(-value/10).
        worst: the error from which a policy is worth nothing (reference of the hypervolume); 0: four times the float network's.

    Raises:
        InputError: `compute` is neither.

    >>> metric(lambda outputs, targets: 0.5, "half", unit="%").infos[0].formula
    '1 - half'
    """
    start: Callable[[], State]
    if isinstance(compute, Accumulator):
        accumulator = compute
        start = lambda: AccumulatorState(accumulator)  # noqa: E731
        label = type(compute).__name__.lower()
    elif callable(compute) and not isinstance(compute, type):
        function = cast(Callable[..., object], compute)
        label = getattr(compute, "__name__", type(compute).__name__).strip("<>")
        start = lambda: CollectingState(function, name or label)  # noqa: E731
    else:
        raise InputError(
            f"metric {name or compute!r} is a {type(compute).__name__}; give a name of {', '.join(METRICS)}, a function "
            f"(outputs, targets) -> number, or a torchmetrics.Metric object."
        )
    rises = bool(getattr(compute, "higher_is_better", None) in (None, True)) if higher is None else higher
    top = best if best is not None else None if unit == "dB" and rises else 1.0 if rises else 0.0
    return Metric((MetricInfo(name or label, rises, unit, top, worst or (1.0 if top == 1.0 else 0.0)),), start)


def chosen_metrics(metrics: object) -> tuple[Metric, ...]:
    """Return the metrics that a task names: names, `metric(...)`, functions, objects and collections of torchmetrics; one or several.

    Raises:
        InputError: an unknown name, something else, or two of one name.
    """
    if isinstance(metrics, nn.ModuleDict):  # as torchmetrics' collections are
        metrics = dict(metrics.items())
    if isinstance(metrics, Mapping):
        made = [_renamed(_made(value, str(name)), str(name)) for name, value in metrics.items()]
    else:
        made = [_made(value, "") for value in (metrics if isinstance(metrics, tuple | list) else [metrics])]
    names = [info.name for entry in made for info in entry.infos]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"metrics named {listed(names)} given; every name once: Task(metrics={{'name': metric, ...}}).")
        if not _NAME.fullmatch(name) or name in _TAKEN or name.endswith(_ENDINGS):
            raise InputError(
                f"a metric named {given(name)} given; up to 60 letters, digits, spaces and . / : - are needed, and no name of a record "
                f"({', '.join(_TAKEN[:4])}, ...) or end like {', '.join(_ENDINGS)}: Task(metrics={{'name': metric}})."
            )
    return tuple(made)


def _made(value: object, name: str) -> Metric:
    if isinstance(value, Metric):
        return value
    if not isinstance(value, str):
        return metric(value, name)
    head, _, option = value.partition(":")
    if head not in METRICS:
        return metric(resolve(METRICS, "metric", value), name)
    factory = cast(Callable[..., Metric], resolve(METRICS, "metric", head))
    return factory(option) if option else factory()


def _renamed(entry: Metric, name: str) -> Metric:
    if entry.name == name:
        return entry
    first, *rest = entry.infos
    return replace(entry, infos=(replace(first, name=name), *rest))
