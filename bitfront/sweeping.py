"""Running a sweep from Python, and loading a recorded one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitfront.experiments import absolute, experiment_of
from bitfront.isolation import unchanged
from bitfront.results import Sweep
from bitfront.sources import TaskSource, open_task, task_name
from quant_core.spec.quant_spec import QuantSpec
from search import tracking
from search.config.store import DEFAULT_URI
from search.sweeps.phases import LogMode, Phases

Choices = str | QuantSpec | Mapping[str, object] | Sequence[str | QuantSpec | Mapping[str, object]]


def sweep(
    task: TaskSource,
    *,
    weight: Choices | None = None,
    activation: Choices | None = None,
    rules: Sequence[Mapping[str, object]] | None = None,
    device: str | Path | None = None,
    objectives: Sequence[str] | None = None,
    budget: Mapping[str, str | float] | None = None,
    trials: int | None = None,
    searcher: str | None = None,
    seed: int | None = None,
    fidelity: str | None = None,
    ladder: Sequence[str] | None = None,
    qat: Mapping[str, object] | None = None,
    calib: int | None = None,
    valid: int | None = None,
    test: int | None = None,
    backend: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    name: str | None = None,
    record: str | None = DEFAULT_URI,
    experiment: str | None = None,
    log: LogMode = "auto",
    task_options: Mapping[str, object] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Sweep:
    """Search the quantization policies of a network and return the sweep; Ctrl-C stops it after the running trial.

    Every argument is a key of the experiment file and has its default there; `bitfront init` writes that file with comments.

    Args:
        task: a `Task`, a function that returns one, or a name: of `bitfront list tasks`, or "package.module:function".
        weight, activation: what every layer may take: texts such as "int4:channel:mse", `QuantSpec`s, or tables of alternatives.
        rules: as in the file: `{"fix": "first", "weight": "int8:channel:mse"}`.
        device: a device of `bitfront devices`, or the path of a device file.
        objectives: minimized metrics, "error" (or "loss") first.
        budget: metric -> upper limit in SI units, or "0.25 of float", "60% of int8".
        trials, searcher, seed: how long, by which searcher of `bitfront list searchers`, and from which seed to search.
        fidelity, ladder, qat: what is trained, and how; see docs/qat.md.
        calib, valid, test: how many examples of each split are used; 0: all.
        backend, workers, threads: "local" or "ray"; trials at once; torch threads per trial.
        name: of the sweep; made from the task, the searcher and the time where it is left out.
        record: MLflow tracking uri of the record; None keeps the sweep in memory, and mlflow is never imported.
        experiment: the MLflow experiment that holds the sweep.
        log: progress on standard error: "auto", "plain", "json" or "none".
        task_options: keyword arguments of the task's function.
        options: any other key, by section: `{"evaluate": {"cache_mib": 1024}, "run": {"max_retries": 0}}`.

    Raises:
        InputError: what is given does not fit the network, the device or the data; every fault is listed.
        BitfrontError: the float network fails, or every trial failed.

    An own network:

    >>> import bitfront, torch
    >>> from torch import nn
    >>> inputs = torch.randn(400, 8)
    >>> targets = (inputs.sum(dim=1) > 0).long()
    >>> data = [(inputs, targets)]
    >>> task = bitfront.Task(nn.Sequential(nn.Linear(8, 2)).eval(), train=data, calib=data, valid=data, test=data)
    >>> sweep = bitfront.sweep(
    ...     task,
    ...     weight=["int4:channel:mse", "int8:channel:mse"],
    ...     activation="int8:tensor:mse",
    ...     device="generic-cpu",
    ...     trials=2,
    ...     record=None,
    ...     log="none",
    ... )
    >>> sweep.status
    'finished'
    """
    keywords = {key: value for key, value in locals().items() if key not in ("task", "record", "log", "options")}
    uri = absolute(record) if record else ""
    made = experiment_of(task_name(task), keywords | {"record": uri or None}, options or {})
    with unchanged():
        from search.exporters.required import require_formats
        from search.sweeps.context import open_context
        from search.sweeps.run import start

        opened = open_task(task, made.task.options)
        context = open_context(made, opened, Phases(log))
        outcome = start(made, log, context=context, recorded=bool(uri), require=require_formats)
    return Sweep(outcome.record, uri, opened, context)


def load(name: str, *, uri: str | None = None, experiment: str | None = None, task: TaskSource | None = None, trust: bool = False) -> Sweep:
    """Return a recorded sweep, also of another process or server, and also while it runs. Nothing is written.

    Args:
        name: the sweep's name, or its MLflow run id.
        uri: MLflow tracking uri; by default `MLFLOW_TRACKING_URI`, else sqlite:///mlflow.db.
        experiment: the MLflow experiment; needed where a name stands in several.
        task: the task, where the sweep was given an object or a function that no other process can find.
        trust: code that the record names (its task, ...) may run when a network is asked for, although the sweep was not started here.

    Raises:
        InputError: no sweep, or more than one, is called so; lists near names.
        BitfrontError: the store cannot be reached.

    >>> import bitfront
    >>> keywords = {"weight": ["int4:channel:mse", "int8:channel:mse"], "activation": "int8:tensor:mse"}
    >>> sweep = bitfront.sweep("digits", **keywords, device="generic-cpu", trials=2, name="loaded", log="none")
    >>> bitfront.load("loaded").front().equals(sweep.front())
    True
    """
    place = absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
    with unchanged():
        record = tracking.read(place, name, experiment)
        return Sweep(record, place, None if task is None else open_task(task, {}), trust=trust)
