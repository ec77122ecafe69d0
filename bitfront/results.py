"""`Sweep`: a sweep that was run or loaded: its front as a table and a figure, its policies as networks and files."""

import html
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bitfront import frames
from bitfront.isolation import unchanged
from bitfront.measured import MeasuredPolicy
from bitfront.networks import applied
from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import unknown
from search.config.files import loads
from search.records.record import SweepRecord, TrialRecord
from search.records.selection import SUGGESTED, within_drop
from search.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn

    from search.exporters import Exported
    from search.sweeps.context import SweepContext
    from search.sweeps.phases import LogMode

Choice = MeasuredPolicy | Policy | str | int
FIGURES = {"front": "front_figure", "bits": "bits_figure", "hypervolume": "hypervolume_figure"}


class Sweep:
    """A sweep: `bitfront.sweep` runs one, `bitfront.load` reads a recorded one.

    Attributes:
        record: everything that is known of it, as plain data.
        uri: the MLflow store that holds it; "" where it lives in this process alone.

    Args:
        record: as above.
        uri: as above.
        task: stands in for the task that the record names.
        context: the network, data and evaluator, where they are at hand; otherwise they are made when they are needed.
        trust: code that the record names may run, although the sweep was not started here.

    >>> import bitfront
    >>> sweep = bitfront.sweep(
    ...     "digits",
    ...     weight=["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"],
    ...     activation="int8:tensor:mse",
    ...     device="vu9p-bitserial",
    ...     trials=5,
    ...     record=None,
    ...     log="none",
    ... )
    >>> sweep.status, len(sweep.trials())
    ('finished', 5)
    >>> list(sweep.front().columns)[:5]
    ['kind', 'trial', 'accuracy valid [%]', 'accuracy test [%]', 'weight [KiB]']
    >>> best = sweep.best(max_drop=2.0)
    >>> sorted(sweep.export(best, "out", formats=["safetensors"]))
    ['card', 'policy', 'safetensors']
    """

    def __init__(
        self, record: SweepRecord, uri: str = "", task: Task | None = None, context: "SweepContext | None" = None, *, trust: bool = False
    ) -> None:
        self.record, self.uri = record, uri
        self._task, self._context, self._trust = task, context, trust

    @property
    def name(self) -> str:
        """The sweep's name, for `bitfront.load` and the command line."""
        return self.record.name

    @property
    def status(self) -> str:
        """How it ended: "finished", "stopped" or "failed"; "running" while another process runs it."""
        return self.record.status

    def front(self) -> pd.DataFrame:
        """Return the Pareto front as a table: one row per policy, then the best uniform policy and the float network.

        The index is the policy's id. `kind` is "front", "uniform" or "float"; units stand in the names of the columns. Test accuracy is
        measured once, for the members of the final front and the float network.
        """
        return frames.front_frame(self.record)

    def trials(self) -> pd.DataFrame:
        """Return every trial as a table, with its status and, where it failed, why."""
        return frames.trials_frame(self.record)

    def plot(self, figure: str = "front") -> Any:
        """Return a plotly figure: "front" (error against each cost), "bits" (bits per layer) or "hypervolume" (over the trials).

        Raises:
            InputError: unknown figure.
        """
        if figure not in FIGURES:
            raise unknown("figure", figure, FIGURES)
        with unchanged():
            from search.report import figures

            return getattr(figures, FIGURES[figure])(self.record)

    def best(self, max_drop: float = 0.5, by: str = "") -> MeasuredPolicy:
        """Return the smallest policy of the front whose validation accuracy is within `max_drop` points of the float network's.

        The accuracy that it loses is within `max_drop` at 90 % confidence, by the differences on the same validation examples, and so is
        the loss that is expected of the best of many. Where no policy is so sure, the smallest by the expected loss is returned, and where
        none is so near, the most accurate; its `note` says so.

        Args:
            max_drop: in points of accuracy: 0.5 takes 97.5 % where float has 98.0 %; of another metric in its unit (points of %).
            by: the metric that is to be smallest, in place of the first cost among the objectives, for example "latency_s".

        Raises:
            InputError: no policy of the front has the metric.
            BitfrontError: the front is empty.
        """
        chosen = within_drop(self.record, self._members(), max_drop, by)
        if not chosen.near:
            warnings.warn(chosen.note, stacklevel=2)
        return self._measured(chosen.trial, chosen.note)

    def pick(self, choice: Choice = SUGGESTED) -> MeasuredPolicy:
        """Return a policy by what names it; by default the suggested one.

        That is "suggested", "max-drop=POINTS", "knee", "best-under:METRIC=LIMIT" in SI units, an id (or its beginning), or a trial number.

        Raises:
            InputError: nothing is named so, or no policy keeps the limit.
            BitfrontError: the front is empty.
        """
        return self._measured(self._trial(choice), f"picked by {choice}" if isinstance(choice, str | int) else "")

    def model(self, choice: Choice = SUGGESTED) -> "nn.Module":
        """Return the network quantized by a policy of this sweep, in eval mode; it shares nothing with the sweep or the task's model.

        A policy that the sweep trained is trained again, from the same numbers, unless its training is kept in the cache.

        Raises:
            InputError: nothing is named so, or weights, data or space are not those of the sweep.
            BitfrontError: the trial failed.
        """
        with self._opened() as context:
            if isinstance(choice, Policy):
                return applied(context, choice)
            trial = self._succeeded(choice)
            return applied(context, trial.policy, trial.result.fidelity, self._after(trial))

    def export(
        self,
        choice: Choice,
        out: str | Path,
        formats: Sequence[str] = (),
        *,
        force: bool = False,
        allow_dequantized: bool = False,
        register: str = "",
        measure: bool = False,
    ) -> "Mapping[str, Exported]":
        """Write a policy of this sweep into the folder `out`, verified; policy.json and a model card are always there.

        Args:
            choice: as `pick` takes it.
            out: the folder to make; it appears whole or not at all.
            formats: names of `bitfront list exporters`, or "package.module:function".
            force: replace an earlier export.
            allow_dequantized: weights that a format cannot hold are stored as float constants of their values.
            register: the name in the MLflow Model Registry to register the network under; "" does not.
            measure: measure the latency of ONNX files beside float32, in onnxruntime on one thread.

        Returns:
            format -> files, checks and notes.

        Raises:
            InputError: unknown policy or format, or `out` exists or cannot be written.
            BitfrontError: a check failed; nothing is left behind.
        """
        if register and not self.uri:
            raise InputError(f"register = {register!r} given, but this sweep is not recorded; run it with record='sqlite:///mlflow.db'.")
        trial = self._succeeded(choice)
        with self._opened() as context:
            from search.exporters.flow import bundle_of, write_bundle

            return write_bundle(
                lambda: replace(bundle_of(self.record, trial, context), allow_dequantized=allow_dequantized, measure=measure),
                tuple(dict.fromkeys(("policy", "card", *formats))),
                Path(out),
                force=force,
                uri=self.uri,
                register=register,
            )

    def resume(self, log: "LogMode" = "auto") -> "Sweep":
        """Continue a stopped sweep to its trial count and return it; no finished trial is repeated or lost.

        Args:
            log: progress on standard error, as `bitfront.sweep` takes it.

        Raises:
            InputError: the sweep is not recorded, or weights, data or space are not those of the sweep.
            BitfrontError: the searcher is not the one that was recorded.
        """
        if not self.uri:
            raise InputError("this sweep is not recorded (record=None), so nothing of it can be taken up; run it again with a record.")
        with self._opened(checked=False) as context:
            from search.sweeps.run import resume

            outcome = resume(self.uri, self.record.run_id, log=log, context=context, trust=self._trust)
        return Sweep(outcome.record, self.uri, self._task, self._context, trust=self._trust)

    def __repr__(self) -> str:
        return f"Sweep({self._summary()})"

    def _repr_html_(self) -> str:
        """Return a line about the sweep and its front as a table, for a notebook."""
        return f"<div><b>{html.escape(self._summary())}</b>{self.front().to_html(float_format='%.4g')}</div>"

    def _summary(self) -> str:
        failed = sum(trial.result.failed for trial in self.record.trials)
        members = len(frames.front_members(self.record))
        return f"{self.name}: {self.status}, {len(self.record.trials)} trials, {failed} failed, {members} policies on the front"

    def _members(self) -> tuple[TrialRecord, ...]:
        members = frames.front_members(self.record)
        if not members:
            raise BitfrontError(f"sweep {self.name!r} has an empty front: no finished trial keeps every limit. Run more trials.")
        return members

    def _trial(self, choice: Choice) -> TrialRecord:
        if isinstance(choice, MeasuredPolicy):
            choice = choice.trial if choice.trial >= 0 else choice.policy
        return frames.pick_trial(self.record, choice.id if isinstance(choice, Policy) else str(choice))

    def _succeeded(self, choice: Choice) -> TrialRecord:
        trial = self._trial(choice)
        if not trial.result.ok:
            raise BitfrontError(f"trial {trial.number} {trial.result.status} ({trial.result.reason}); pick another.")
        return trial

    def _after(self, trial: TrialRecord) -> list[Policy]:
        policies = {other.number: other.policy for other in self.record.trials}
        return [policies[number] for number in trial.after]

    def _measured(self, trial: TrialRecord, note: str) -> MeasuredPolicy:
        names = [info.name for info in self.record.infos]
        of_float = {f"{name}_float_{split}": f"{name}_{split}" for split in ("valid", "test") for name in names}
        baseline = {name: self.record.baseline[key] for name, key in of_float.items() if key in self.record.baseline}
        if "weight_bytes" in self.record.baseline:
            baseline["float_weight_bytes"] = self.record.baseline["weight_bytes"]
        return MeasuredPolicy(trial.policy, self._figures(trial) | baseline, trial.number, note)

    def _figures(self, trial: TrialRecord) -> dict[str, float]:
        return frames.figures(trial, self.record.infos)

    @contextmanager
    def _opened(self, *, checked: bool = True) -> "Iterator[SweepContext]":
        """Give the network, the data and the evaluator of the sweep; the caller's process is as before afterwards."""
        with unchanged():
            import torch

            from search.sweeps.context import check_fingerprints, open_context
            from search.sweeps.trust import require_trust

            experiment = loads(self.record.experiment, f"experiment of sweep {self.name}")
            if self._context is None:
                require_trust(self.record, self._trust, task_given=self._task is not None)
                self._context = open_context(experiment, self._task)
            elif experiment.run.threads:
                torch.set_num_threads(experiment.run.threads)
            if checked:
                check_fingerprints(self.record, self._context.setup)
            yield self._context
