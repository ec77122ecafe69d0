"""The metric that a sweep searches for, and the limits on metrics that the policies of its front keep."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from search.config.experiment import DeviceSection
from search.config.limits import Limit
from search.records.record import ACCURACY
from search.tasks.metrics.info import MetricInfo, reference_error
from search.tasks.task import Task


def judged_by(task: Task, name: str) -> Task:
    """Return the task with the named metric first; "" leaves its order.

    Raises:
        InputError: the task has no such metric.
    """
    if not name or (not task.judges and name == ACCURACY.name):
        return task
    chosen = [judge for judge in task.judges if judge.name == name]
    if not chosen:
        raise unknown("metric of the task", name, [judge.name for judge in task.judges] or [ACCURACY.name])
    return replace(task, metrics=[*chosen, *(judge for judge in task.judges if judge.name != name)])


def metric_names(infos: Sequence[MetricInfo]) -> list[str]:
    """Return the names that a budget of quality may have."""
    return [info.name for info in infos or (ACCURACY,)]


def quality_limits(section: DeviceSection, infos: Sequence[MetricInfo], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return metric -> the worst value that a policy of the front may have on validation.

    Args:
        section: its budget.
        infos: of the task's metrics; none: accuracy.
        baseline: figures of the float network, `accuracy_valid` or the like.

    Raises:
        InputError: the limit is better than the float network's figure, or of a network that was not measured.
    """
    return {
        info.name: _limit(info, section.budget[info.name], baseline[f"{info.name}_valid"])
        for info in infos or (ACCURACY,)
        if info.name in section.budget
    }


def _limit(info: MetricInfo, limit: Limit, float_value: float) -> float:
    worse = -1.0 if info.higher else 1.0
    if limit.of == "points":
        better = {"+": info.higher, "-": not info.higher, "": False}[limit.bound]
        if better and limit.value:
            sign = "-" if info.higher else "+"
            raise InputError(
                f"budget {info.name} = 'float {limit.bound} {limit.value:g}' given, which is better than the float network; "
                f"write 'float {sign} {limit.value:g}'."
            )
        return float_value + worse * limit.value * (0.01 if info.unit == "%" else 1.0)
    if limit.of == "int8":
        raise InputError(f"budget {info.name} = '{limit.value:g} of int8' given; metrics have limits relative to float: 'float - 0.5'.")
    if limit.bound == ">=" and not info.higher:
        raise InputError(f"budget {info.name} >= {limit.value:g} given, and lower is better; write '<= {limit.value:g}'.")
    return limit.value * (float_value if limit.of == "float" else 1.0)


def reference_point(info: MetricInfo | None, baseline: Mapping[str, float]) -> dict[str, float]:
    """Return the reference of the hypervolume for `error` and `loss`."""
    error = 1.0 if info is None else reference_error(info, baseline["error_valid"])
    return {"error": error, "loss": max(1.0, 4.0 * baseline["loss_valid"])}
