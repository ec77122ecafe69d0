"""`Evaluator`: quantize a network by a policy and measure it. One per process; it owns a private copy of the network."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.export.reconstructed import reconstructed as reconstructed_network
from quant_core.export.stored import Quantized, on_cpu, post_training
from quant_core.export.trained import trained as trained_network
from quant_core.network.apart import part_size
from quant_core.network.reference import reference_network, warn_of_noise
from quant_core.ptq.activation import ranges_whole_batches
from quant_core.ptq.engine import PostTraining
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.population import PopulationConfig
from quant_core.qat.prepare import finalize, float_weights
from quant_core.qat.train import starting
from quant_core.reconstruct.results import Reconstructed
from quant_core.spec.layer import Layer
from quant_core.spec.policy import NONE, Policy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.spec.size import average_bits
from quant_core.util.cache import CacheCounts
from quant_core.util.devices import CPU, device_of, placed, precision
from quant_core.util.errors import BitfrontError, InputError, first_line
from search.config.evaluation import EvaluateSection
from search.evaluation.engines import Engines
from search.evaluation.judge import FloatOutputs
from search.evaluation.measure import check_first, measure, other_sizes, take
from search.evaluation.paired import PairedScores
from search.evaluation.racing import Incumbent, OutrunError, UnfitError, Watch
from search.evaluation.reconstruction import Report, figures, reconstructed, silent
from search.evaluation.shuffling import training_batches
from search.evaluation.training import checkpoint_config, train_population, trained, training
from search.records.result import Result
from search.tasks.batches import size_of
from search.tasks.stream import sized, split_of
from search.tasks.task import Batch, Task

Epochs = tuple[Mapping[str, float], ...]


class Evaluator:
    """Evaluates policies of one network: by post-training quantization, or by training each from the float weights.

    Attributes:
        calib: inputs of the calibration batches.
        engine: the post-training engine of the network under the first of its transforms, with its cache.
        engines: of all transforms.

    Args:
        task: the network and its splits.
        layers: its layers, from `quant_core.network.trace.trace`.
        section: fidelity, sizes of the splits, options of post-training quantization and of training.
        key: names the network and its data; training is then kept in the cache folder, and goes on there when it was killed.
        population: trains every policy by a population; None by the section's configuration alone.
        specs: layer name -> the specs that its weight can have, see `PostTraining`; None: any.
        transforms: of the network, that policies may ask for; the engines share the cache's limit.
        device: where everything is computed; None: where the network is.
        dtype: of matrix products and convolutions when a network is measured. Weights are quantized from their float32 values, and
            calibration, estimates and training are as they are with "float32".
    """

    def __init__(
        self,
        task: Task,
        layers: Iterable[Layer],
        section: EvaluateSection,
        key: str = "",
        population: PopulationConfig | None = None,
        specs: Mapping[str, Collection[QuantSpec]] | None = None,
        *,
        transforms: Sequence[str] = (NONE,),
        device: torch.device | None = None,
        dtype: str = "float32",
    ) -> None:
        task = replace(sized(task, section), model=placed(reference_network(task.model), device))
        self._dtype = dtype
        self._task, self._section, self._key, self._population = task, section, key, population
        self._trained: tuple[tuple[Policy, ...], nn.Module, Epochs] | None = None
        self._reconstructed: tuple[Policy, Reconstructed] | None = None
        self._paired = {split: PairedScores() for split in ("valid", "test")}
        self._layers = list(layers)
        self.calib = [inputs for inputs, _ in task.calib]
        if not self.calib:
            raise InputError("the task's calibration split is empty; give at least one batch.")
        warn_of_noise(task.model, self.calib[0])
        self._at_once = part_size(task.model, self.calib[0])
        self._floats = {split: FloatOutputs(task.model, at_once=self._at_once) for split in ("valid", "test")}
        make = partial(
            PostTraining,
            layers=self._layers,
            batches=self.calib,
            example=self.calib[0],
            bias_correction=section.bias_correction,
            scale_correction=section.scale_correction,
            cache_bytes=section.cache_mib * 2**20 // len(transforms),
            specs=specs,
            at_once=self._at_once,
        )
        self.engines = Engines(task.model, self.calib, transforms, make)
        self.engine = self.engines.first

    def __call__(self, policy: Policy, fidelity: str = "", after: Sequence[Policy] = (), watch: Watch | None = None) -> Result:
        """Evaluate one policy on the validation split. Whatever goes wrong is a failed Result with its reason, never an exception.

        `fidelity` is "ptq", "adaround", "reconstruct" or "qat"; "" is that of the section. `after` are policies that are trained before,
        one after the other: training starts from the weights of the last one; with none, from the float weights. `watch` may stop it.

        Raises:
            UnfitError: there is nothing to `watch`.
        """
        start, fidelity = time.perf_counter(), fidelity or self._section.fidelity
        result, epochs = Result(policy.id, fidelity=fidelity), tuple[Mapping[str, float], ...]()
        try:
            metrics = self.metrics(policy, "valid", fidelity, after, watch) | average_bits(self._layers, policy)
            epochs = self._trained[2] if fidelity == "qat" and self._trained is not None else epochs
            epochs = figures(self.reconstructed(policy)) if fidelity == "reconstruct" else epochs
            result = replace(result, metrics=metrics, epochs=epochs, examples=int(self.counts("valid")["examples_valid"]))
        except OutrunError as stop:
            result = stop.of(result)
        except UnfitError:
            raise
        except Exception as error:  # a trial that fails must not end the sweep
            result = replace(result, status="failed", reason=f"{type(error).__name__}: {error}")
        return replace(result, seconds=time.perf_counter() - start)

    def steps(self, policy: Policy, fidelity: str, after: Sequence[Policy] = ()) -> Iterator[Result]:
        """Evaluate one policy at growing fidelity: on some calibration examples, on the validation split, after every epoch of training.

        The last result is what a call gives; those before it have the status "stopped", which they are if nobody asks for the next.
        """
        start, names = time.perf_counter(), self._task.figure_names
        try:
            for reached, figures in self._rungs(policy, fidelity, after):
                metrics = {name: figures[name] for name in (*names[:-1], "error", "loss")} | average_bits(self._layers, policy)
                seconds, reason = time.perf_counter() - start, f"stopped early at {reached}"
                yield Result(policy.id, metrics, {}, seconds, "stopped", reason, fidelity=reached)
        except Exception as error:  # as in a call
            reason = f"{type(error).__name__}: {error}"
            yield Result(policy.id, {}, {}, time.perf_counter() - start, "failed", reason, fidelity=fidelity)
        else:
            yield replace(self(policy, fidelity, after), seconds=time.perf_counter() - start)

    def _rungs(self, policy: Policy, fidelity: str, after: Sequence[Policy]) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yield how far the evaluation has come and the metrics there, up to the last rung but one."""
        part = take(self._task.calib, max(1, split_of(self._task, "valid", self._section).whole().examples // 4))
        size = sum(size_of(*batch) for batch in part)
        yield f"ptq, {size} calibration examples", self._measured(self._applied(policy), part, whole=ranges_whole_batches(policy))
        if fidelity != "qat":
            return
        yield "ptq", self.metrics(policy, "valid", "ptq")
        config, history = self._section.training, []
        start, saving = self._start(policy, after), self._saving((*after, policy))
        prepared, epochs = training(self._training_task(policy), policy, config, section=self._section, start=start, saving=saving)
        for epoch in epochs:
            history.append(epoch)
            if len(history) < config.epochs:
                yield f"qat, epoch {len(history)} of {config.epochs}", epoch | {"loss": epoch["loss_valid"]}
        self._trained = ((*after, policy), prepared.eval(), tuple(history))

    @property
    def device(self) -> torch.device:
        """Where networks are computed."""
        return device_of(self._task.model) or CPU

    def cache_counts(self) -> tuple[CacheCounts, CacheCounts]:
        """Return copies of the engine's hits and misses: quantized weights, ranges of activations."""
        return self.engines.counts()

    def float_metrics(self, split: str = "valid") -> dict[str, float]:
        """Return the metrics of the float network on one split ("valid" or "test").

        Raises:
            BitfrontError: the network fails, or returns NaN or infinity.
        """
        scores: list[Tensor] = []
        try:
            figures = self._measured(self._task.model, self._split(split), self._floats[split], scores)
        except BitfrontError as error:
            raise BitfrontError(f"float network on {split}: {error}") from None
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            said = first_line(error)
            raise BitfrontError(f"float network on {split}: {said}. Give batches that the network takes in every split.") from error
        self._paired[split].keep(scores)
        return figures

    def counts(self, split: str) -> dict[str, float]:
        """Return how many examples the float network was judged on, and by how many predictions where each example has several."""
        whole = split_of(self._task, "valid" if split == "valid" else "test", self._section).whole()
        examples, predictions = float(whole.examples), float(self._paired[split].count)
        return {f"examples_{split}": examples} | ({f"predictions_{split}": predictions} if predictions > examples else {})

    def check_split(self, split: str) -> None:
        """Judge the float network on the first batch of a split, so that a split that fails does so before the work of hours."""
        check_first(self._task, split, self._split(split), self._at_once)

    def watch(self, objective: str, incumbent: Incumbent | None, confidence: float) -> Watch:
        """Return a watch over one evaluation on the validation split, which stops it where it is worse than an incumbent."""
        return Watch(self._task, objective, int(self.counts("valid")["examples_valid"]), incumbent, confidence)

    def metrics(
        self, policy: Policy, split: str, fidelity: str = "", after: Sequence[Policy] = (), watch: Watch | None = None
    ) -> dict[str, float]:
        """Return the metrics of one policy on one split; `fidelity`, `after` and `watch` as in a call.

        The error of the drop is measured against the float network on the same examples, which is judged first where it was not yet.
        """
        if not self._paired[split].measured:
            self.float_metrics(split)
        network = self._network(policy, fidelity or self._section.fidelity, after)
        scores: list[Tensor] = []
        batches, whole = self._split(split), ranges_whole_batches(policy)
        figures = self._measured(network, batches, self._floats[split], scores, whole=whole, watch=watch)
        return figures | self._paired[split].figures(scores)

    def quantized(self, policy: Policy, fidelity: str = "", after: Sequence[Policy] = ()) -> Quantized:
        """Return the network that `metrics` measures, on the CPU, with everything that it stores: what exporters write.

        Raises:
            BitfrontError: what is stored is not what is measured.
        """
        fidelity, network = fidelity or self._section.fidelity, self.engines.network(policy)
        if fidelity == "reconstruct":
            made = reconstructed_network(self.reconstructed(policy), network, self._layers, policy, self.calib[0])
        elif fidelity == "qat":
            base = starting(network, self._section.training, self.calib[0])
            made = trained_network(self._train((*after, policy)), base, self._layers, policy, self.calib[0])
        else:
            made = post_training(self.engines.engine(policy), network, self._layers, policy, self.calib[0])
        return on_cpu(replace(made, others=self._others))

    @cached_property
    def _others(self) -> tuple[Any, ...]:
        """Batches of other sizes than the first one of calibration: the same for every policy."""
        return other_sizes(self._task)

    def reconstructed(self, policy: Policy, report: Report = silent) -> Reconstructed:
        """Return the network reconstructed under a policy; the last one is kept for the next split."""
        if self._reconstructed is None or self._reconstructed[0] != policy:
            engine, network, config = self.engines.engine(policy), self.engines.network(policy), self._section.reconstruction
            how = partial(reconstructed, class_axis=self._task.logits_axis, key=self._key, report=report)
            self._reconstructed = policy, how(engine, network, policy, self.calib, config)
        return self._reconstructed[1]

    def _network(self, policy: Policy, fidelity: str, after: Sequence[Policy]) -> nn.Module:
        """Return the network that is measured."""
        if fidelity == "qat":
            return finalize(self._train((*after, policy)))
        return self.reconstructed(policy).simulation if fidelity == "reconstruct" else self._applied(policy)

    def _applied(self, policy: Policy) -> nn.Module:
        return self.engines.engine(policy).apply(policy)

    def _measured(
        self,
        network: nn.Module,
        batches: Iterable[Batch],
        floats: FloatOutputs | None = None,
        scores: list[Tensor] | None = None,
        *,
        whole: bool = False,
        watch: Watch | None = None,
    ) -> dict[str, float]:
        with precision(device_of(network), self._dtype):
            return measure(network, batches, self._task, floats, scores, 0 if whole else self._at_once, watch)

    def _train(self, policies: tuple[Policy, ...]) -> nn.Module:
        """Return the prepared network after the training of policies one after the other; the last one is kept for the next split."""
        if self._trained is None or self._trained[0] != policies:
            policy, config, section = policies[-1], self._section.training, self._section
            task, start, saving = self._training_task(policy), self._start(policy, policies[:-1]), self._saving(policies)
            if self._population:
                prepared, history = train_population(task, policy, config, self._population, section=section, start=start, saving=saving)
            else:
                prepared, history = trained(task, policy, config, section=section, start=start, saving=saving)
            self._trained = (policies, prepared, tuple(history))
        return self._trained[1]

    def _training_task(self, policy: Policy) -> Task:
        """Return the task with the network under the policy's transform, and its training split as the loop takes it, made once."""
        self._task = replace(self._task, train=training_batches(self._task, self._section))
        return replace(self._task, model=self.engines.network(policy))

    def _start(self, policy: Policy, before: Sequence[Policy]) -> dict[str, Tensor] | None:
        """Return the weights that training starts from after that of `before`; None: the float ones, as under another transform."""
        same = before and before[-1].transform == policy.transform
        return float_weights(self._train(tuple(before))) if same else None

    def _saving(self, policies: tuple[Policy, ...]) -> CheckpointConfig | None:
        return checkpoint_config(self._key, policies, self._section.training) if self._key else None

    def _split(self, split: str) -> Iterable[Batch]:
        return self._task.valid if split == "valid" else self._task.test
