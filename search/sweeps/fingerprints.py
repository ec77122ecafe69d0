"""What a sweep is bound to: hashes of weights, data and space, and the keys of what is cached for it."""

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hw_models.table import CostTable
from quant_core.network.apart import part_size
from quant_core.network.cutting import forward_in_parts
from quant_core.network.forward import to_device
from quant_core.qat.population import PopulationConfig
from quant_core.util.cache_key import cache_key
from quant_core.util.rng import repeatable
from search.config.evaluation import EvaluateSection
from search.evaluation.measure import measure
from search.evaluation.training import EVALUATION_CODE
from search.tasks.losses import training_step
from search.tasks.stream import Split, opened
from search.tasks.task import Batch, Task
from spaces.space import Space

HASHED: tuple[Split, ...] = ("calib", "valid", "test")
DATA_VERSION = "2:"
"""Begins the fingerprints of data that this version makes."""


def hash_tensors(tensors: Iterable[object]) -> str:
    """Return a hash of types, shapes and contents."""
    digest = hashlib.sha256()
    _feed(digest, tensors)
    return digest.hexdigest()[:16]


def _feed(digest: "hashlib._Hash", tensors: Iterable[object]) -> None:
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
            digest.update(dense.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def hash_data(task: Task, report: Callable[[int], None] | None = None) -> str:
    """Return a hash of what the experiment reads of calib, valid and test; splits with a fingerprint of their own are not read for it.

    Args:
        task: from `search.tasks.stream.sized`, hashed as it is read.
        report: is told the examples read so far.
    """
    digest, before, last = hashlib.sha256(), 0, 0

    def told(count: int) -> None:
        nonlocal last
        last = before + count
        if report:
            report(last)

    for name in HASHED:
        digest.update(opened(task, name).fingerprint(told).encode())
        before = last
    return DATA_VERSION + digest.hexdigest()[:16]


def same_data(recorded: str, task: Task, present: str) -> bool:
    """Tell whether a recorded fingerprint is that of the task's data, whose present one is given.

    Sweeps of earlier versions recorded a hash of whole splits, whatever their sizes; it is computed where one of them is resumed.
    """
    if recorded.startswith(DATA_VERSION):
        return recorded == present
    return recorded == hash_whole_splits(*(opened(task, name).source for name in HASHED))


def hash_whole_splits(*splits: Iterable[Batch]) -> str:
    """Return the hash of splits that versions before `DATA_VERSION` recorded: of all examples' tensors, read to the end."""
    digest = hashlib.sha256()
    for split in splits:
        with repeatable():
            _feed(digest, (leaf for batch in split for leaf in tree_leaves(batch)))
    return digest.hexdigest()[:16]


def hash_space(space: Space, limits: Mapping[str, float], table: CostTable) -> str:
    """Return a hash of the choices, the limits and the costs."""
    digest = hashlib.sha256(
        repr((space.base.to_json(), [(d.name, d.layers, [str(c) for c in d.choices]) for d in space.dimensions])).encode()
    )
    digest.update(repr(space.transforms).encode() if space.transforms else b"")
    digest.update(repr(list(map(str, space.kvs))).encode() if space.kvs else b"")
    digest.update(repr(sorted(limits.items())).encode())
    for metric in table.metrics:
        digest.update(metric.encode() + np.nan_to_num(table.values[metric]).tobytes())
    for pair in table.pairs:
        digest.update(f"{pair.metric}.{pair.first}.{pair.second}".encode() + pair.added.tobytes())
    return digest.hexdigest()[:16]


def task_probe(task: Task) -> tuple[str, ...]:
    """Return the task's behaviour on one calibration batch, to four digits: mean and RMS output, loss, score.

    Tasks of equal weights and data that differ in forward, loss or score differ here. Empty where the task fails on the batch, which
    whoever evaluates it reports.
    """
    with torch.inference_mode(), repeatable():
        for inputs, targets in itertools.islice(task.calib, 1):
            try:
                at_once = part_size(task.model, inputs)
                outputs = forward_in_parts(task.model, inputs, at_once)
                figures = [float(outputs.double().mean()), float(outputs.double().square().mean().sqrt())]
                if task.judges:
                    measured = measure(task.model, [(inputs, targets)], task, at_once=at_once)
                    texts = (*measured, repr(task.infos[0]), repr(task.class_axis))
                    return (*(f"{figure:.3e}" for figure in (*figures, *measured.values())), *texts)
                judged = outputs, to_device(targets, outputs.device)
                figures += [float(task.loss(*judged)), float(task.score(*judged).double().mean())]
                return tuple(f"{figure:.3e}" for figure in figures)
            except Exception:
                return ()
    return ()


def training_probe(task: Task) -> tuple[str, ...]:
    """Return the task's behaviour in training on one batch, to four digits: loss and sum of the gradients' norms of a copy in train mode.

    Tasks of equal outputs in eval mode that differ in dropout, or in the gradients of their loss, differ here. Empty where it fails,
    which the training reports.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), repeatable():
            model = copy.deepcopy(task.model).train()
            for batch in itertools.islice(task.train, 1):
                loss = training_step(task)(model, to_device(batch, next(model.parameters()).device))
                loss.backward()  # type: ignore[no-untyped-call]
                norms = sum(float(p.grad.double().norm()) for p in model.parameters() if p.grad is not None)
                return f"{float(loss.detach()):.3e}", f"{norms:.3e}"
    except Exception:
        return ()
    return ()


def training_key(
    task: Task, fingerprints: Mapping[str, str], section: EvaluateSection, population: PopulationConfig | None, probe: tuple[str, ...]
) -> str:
    """Return the key of learned weights but for the policy: network, data, behaviour, options; empty where nothing is learned.

    `probe` is the task's `task_probe`.
    """
    if not {"qat", "reconstruct"} & {section.fidelity, *section.ladder}:
        return ""
    trains = "qat" in (section.fidelity, *section.ladder)
    bound = (
        fingerprints["weights"],
        fingerprints["data"],
        opened(task, "train").fingerprint() if trains else "",
        probe,
        training_probe(task) if trains else "",
        str(task.model),
    )
    return cache_key("qat", EVALUATION_CODE, *bound, section, population)


def sensitivity_key(fingerprints: Mapping[str, str], section: EvaluateSection, space: Space, probe: tuple[str, ...]) -> str:
    """Return the key of sensitivities: network, data, behaviour, choices and how they are measured; limits do not matter.

    `probe` is the task's `task_probe`.
    """
    choices = [(d.layers, d.slot, [str(choice) for choice in d.choices]) for d in space.dimensions]
    bound = (fingerprints["weights"], fingerprints["data"], probe, space.base.to_json(), choices)
    options = (section.calib, section.bias_correction, section.scale_correction, section.sensitivity, section.sensitivity_passes)
    return cache_key("sensitivity", (*EVALUATION_CODE, "spaces"), *bound, *options)
