"""From a network and a target to files, in one step: sweep, choose by the accuracy that may be lost, export, replay, measure."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import BitfrontError, InputError
from search import tasks, tracking
from search.config.experiment import Experiment
from search.config.files import from_data
from search.config.targets import Target, target_of
from search.exporters import Exported
from search.exporters.flow import bundle_of, write_bundle
from search.exporters.folder import check_target
from search.exporters.look import look
from search.exporters.minutes import Chosen, plan
from search.exporters.required import require_formats
from search.records.expected import ERROR
from search.records.front import front_members
from search.records.record import SweepRecord
from search.records.selection import Selection, within_drop
from search.records.units import shown
from search.sweeps.context import SweepContext, open_context
from search.sweeps.interrupt import Timer
from search.sweeps.phases import LogMode, Phases
from search.sweeps.plan import reference_cost
from search.sweeps.run import start
from search.sweeps.setup import Setup
from search.tasks import TASKS
from search.tasks.task import Task

DATA_OPTIONS = ("data", "path")
"""Names under which tasks take the place of their data."""


@dataclass(frozen=True)
class Compressed:
    """A network that was compressed.

    Attributes:
        record: the sweep.
        selection: the policy, and by what it was chosen.
        out: the folder with the files.
        written: format -> files, checks, notes.
        metrics: split ("valid", "test", "float_valid", "float_test") -> figures.
        target: what it was compressed for.
        plan: what was done in the time, and why, in a line.
        modelled: latency on a device by its model, before, and what ran then ("float"); None where it is measured.
    """

    record: SweepRecord
    selection: Selection
    out: Path
    written: Mapping[str, Exported]
    metrics: Mapping[str, Mapping[str, float]]
    target: Target
    plan: str
    modelled: tuple[float, str] | None = None

    def lines(self) -> list[str]:
        """Return size, metric and latency before and after, the files, the policy and the plan, a line each."""
        trial, info = self.selection.trial, self.record.infos[0]
        before, after = self.record.baseline["weight_bytes"], trial.result.figures["weight_bytes"]
        size = f"size: {shown('weight_bytes', before)} -> {shown('weight_bytes', after)} of weights ({before / after:.1f} x smaller)"
        judged = [
            f"{shown(info.name, self.metrics[f'float_{split}'][info.name], self.record.infos)} -> "
            f"{shown(info.name, self.metrics[split][info.name], self.record.infos)}{self._error(split)} on {split}"
            for split in ("valid", "test")
        ]
        files = [str(self.out / file) for exported in self.written.values() for file in exported.files]
        note = f"policy {trial.policy.id}: {self.selection.note}"
        return [size, f"{info.name}: {', '.join(judged)}", self._latency(), f"files: {', '.join(files)}", note, self.plan]

    def _error(self, split: str) -> str:
        error = self.metrics[split].get(ERROR)
        return "" if error is None else f" ± {shown('accuracy', error)}"

    def _latency(self) -> str:
        """Return the latency on a device by its model, or in a runtime as it was measured."""
        after = self.selection.trial.result.figures.get("latency_s")
        if not self.target.runtime and after is not None:
            if self.modelled is None:
                words = f"by the model of {self.target.device}, which runs neither float nor 8 bits throughout"
                return f"latency: {shown('latency_s', after)} {words}"
            before, what = self.modelled
            ratio = f"{before / after:.1f} x faster" if before > after else f"{after / before:.1f} x slower"
            texts = [shown("latency_s", value) for value in (before, after)]
            return f"latency: {texts[0]} in {what} -> {texts[1]}, by the model of {self.target.device} ({ratio})"
        for exported in self.written.values():
            checks = exported.checks
            if "float32_latency_s" in checks:
                texts = [shown("latency_s", float(checks[key])) for key in ("float32_latency_s", "latency_s")]
                return f"latency: {texts[0]} -> {texts[1]}, one example on one thread ({checks['verdict']})"
        return "latency: not measured"


def experiment_for(
    model: str, target: Target, *, data: str = "", options: Mapping[str, object] | None = None, minutes: float = 10.0, record: str = ""
) -> Experiment:
    """Return the experiment that compresses a network for a target, but for what the time decides.

    Args:
        model: a ready task's name, "hf:FOLDER-OR-ID", "module:function" that returns a task, or a file with a function `task`.
        target: what it is to run on.
        data: where the task's data are, where it takes that.
        options: of the task.
        minutes: from the begin to the last trial.
        record: MLflow tracking uri; "" the default one.

    Raises:
        InputError: no such task, or it takes no data.
    """
    name, values = task_of(model, dict(options or {}))
    if data:
        values |= {_data_option(name): data}
    sections: dict[str, Any] = {
        "task": {"name": name, "options": values},
        "space": {"weight": target.weight, "activation": target.activation},
        "device": {"name": target.device, "objectives": target.objectives},
        "run": {"minutes": minutes},
        "evaluate": {"bias_correction": target.bias_correction},
        "export": {"formats": target.formats},
    }
    return from_data(sections | ({"track": {"uri": record}} if record else {}), "bitfront compress")


def with_plan(experiment: Experiment, chosen: Chosen, widest: Sequence[QuantSpec]) -> Experiment:
    """Return the experiment as a plan has it; `widest` are the weight formats that stay where only the widest ones are to be tried."""
    sizes = {"calib": chosen.calib, "valid": chosen.valid, "test": chosen.test}
    rung = {"ladder": ("reconstruct",), "top_k": chosen.reconstructed, "reconstruct": {"steps": chosen.steps}} if chosen.steps else {}
    passes = {"sensitivity_passes": chosen.passes} if chosen.passes else {}
    sections = experiment.model_dump(mode="json")
    sections["search"] |= {"searcher": chosen.searcher, "trials": chosen.trials}
    sections["evaluate"] |= sizes | passes | rung
    if chosen.widest:
        sections["space"]["rules"] = [{"restrict": "*", "weight": [str(spec) for spec in widest]}]
    return from_data(sections, "bitfront compress")


def task_of(model: str, options: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Return the name and the options of the task that MODEL means.

    Raises:
        InputError: it is none of the forms.
    """
    if model.startswith("hf:"):
        return "hf", {"model": model.removeprefix("hf:")} | options
    if model.endswith(".py"):
        if Path(model).parent != Path() or not Path(model).is_file():
            raise InputError(
                f"{model!r} given; a task file in this folder is needed, as `bitfront init my.toml --from MODULE:NETWORK` writes."
            )
        return f"{Path(model).stem}:task", options
    if model in TASKS or ":" in model:
        return model, options
    raise InputError(
        f"{model!r} given; MODEL is a task ({', '.join(TASKS)}), hf:FOLDER-OR-ID, module:function that returns a task, or a task file.py."
    )


def _data_option(name: str) -> str:
    """Return the name of the option under which a task takes the place of its data."""
    import inspect

    from quant_core.util.registry import resolve

    function = resolve(TASKS, "task", name)
    parameters = inspect.signature(function).parameters if callable(function) else {}
    option = next((option for option in DATA_OPTIONS if option in parameters), "")
    if not option:
        raise InputError(f"--data given, but task {name!r} takes neither {' nor '.join(DATA_OPTIONS)}: its data are its own.")
    return option


def compress(
    model: str,
    target: str,
    out: Path,
    *,
    max_drop: float = 0.5,
    minutes: float = 10.0,
    data: str = "",
    options: Mapping[str, object] | None = None,
    task: Task | None = None,
    record: str = "",
    force: bool = False,
    log: LogMode = "auto",
) -> Compressed:
    """Compress a network for a target: plan, sweep until the time is over (or Ctrl-C), choose, export, replay, measure.

    The time begins with the call. When it is over the running trial is finished, or the first one where none has ended; the export comes
    on top. Where it ends before the front is judged on the test split, the sweep is stopped: `bitfront resume` goes on.

    Args:
        model, data, options, minutes, record: as `experiment_for` takes them.
        target: a runtime or a device, see `search.config.targets`.
        out: the folder to make; it appears whole or not at all.
        max_drop: points of the metric that may be lost.
        task: stands in for the one that `model` names.
        force: replace an earlier export.
        log: how progress is shown.

    Raises:
        InputError: what is given does not fit; `out` exists.
        BitfrontError: no trial ended within the limits, or a check of the export failed.
    """
    timer, report = Timer(minutes), Phases(log)
    check_target(out, force)
    aim = target_of(target)
    experiment = experiment_for(model, aim, data=data, options=options, minutes=minutes, record=record)
    context, words = _planned(experiment, task, timer, report)
    outcome = start(context.setup.experiment, log, context=context, require=require_formats, timer=timer)
    members = front_members(outcome.record)
    if not members:
        raise BitfrontError(f"sweep {outcome.record.name!r} has no policy to export yet; bitfront resume {outcome.record.name} goes on.")
    selection = within_drop(outcome.record, members, max_drop)
    report(f"exporting policy {selection.trial.policy.id}", 0, 0)
    bundle = replace(bundle_of(outcome.record, selection.trial, context), measure=True)
    formats = tuple(dict.fromkeys(itertools.chain(("policy", "card"), aim.formats)))
    uri = experiment.track.uri
    written = write_bundle(lambda: bundle, formats, out, force=force, uri=uri)
    before = None if aim.runtime else _modelled(context.setup)
    return Compressed(tracking.read(uri, outcome.record.run_id), selection, out, written, bundle.metrics, aim, words, before)


def _planned(experiment: Experiment, task: Task | None, timer: Timer, report: Phases) -> tuple[SweepContext, str]:
    """Return the sweep that fits into the time, opened, and its plan in words."""
    report(f"loading task {experiment.task.name}", 0, 0)
    task = tasks.load(experiment.task.name, experiment.task.options) if task is None else task
    costs, widest = look(experiment, task, timer.left, report)
    chosen = plan(timer.left, costs)
    report(chosen.words, 0, 0)
    return open_context(with_plan(experiment, chosen, widest), task, report), chosen.words


def _modelled(setup: Setup) -> tuple[float, str] | None:
    """Return the latency of the float network by the device's model, or, where it runs no float, of 8 bits everywhere; None of neither."""
    for reference, words in (("float", "float"), ("int8", "uniform int8, as the device runs no float")):
        try:
            return reference_cost(setup.device, setup.layers, reference)["latency_s"], words
        except (InputError, KeyError):
            continue
    return None
