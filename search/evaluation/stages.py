"""One policy at every stage side by side: the float network, after post-training quantization, after training."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

from quant_core.qat import QatConfig
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.prepare import finalize
from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import measure
from search.evaluation.training import Metrics, Report, trained
from search.tasks.stream import Split, sized, split_of
from search.tasks.task import Task


def qat_metrics(
    task: Task,
    layers: Sequence[Layer],
    policy: Policy,
    config: QatConfig,
    *,
    section: EvaluateSection | None = None,
    report: Report | None = None,
    saving: CheckpointConfig | None = None,
) -> Metrics:
    """Return metrics and loss of the float, the post-training quantized and the trained quantized network on valid and test.

    Keys: `accuracy_float_valid`, `accuracy_ptq_valid`, `accuracy_qat_valid` (of a task with metrics their names), the same with `loss`
    and with `test`; `epochs` that were trained, `seconds_qat` of the training.

    Raises:
        InputError: as `trained`.
        QatError: the loss is not finite.
    """
    section = section or EvaluateSection()
    task = sized(task, section)
    evaluator = Evaluator(task, layers, section, transforms=(policy.transform,))
    start, base = time.perf_counter(), replace(task, model=evaluator.engines.network(policy))
    prepared, history = trained(base, policy, config, section=section, report=report, saving=saving)
    model = finalize(prepared)
    figures = {"epochs": float(len(history)), "seconds_qat": time.perf_counter() - start}
    splits: tuple[Split, ...] = ("valid", "test")
    for split, kind in itertools.product(splits, ("float", "ptq", "qat")):
        if kind == "float":
            measured = evaluator.float_metrics(split)
        elif kind == "ptq":
            measured = evaluator.metrics(policy, split)
        else:
            measured = measure(model, split_of(task, split, section), task)
        figures |= {f"{metric}_{kind}_{split}": measured[metric] for metric in task.figure_names}
    return figures
