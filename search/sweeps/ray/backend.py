"""The `ray` backend: Ray Tune runs the trials of a sweep on several workers."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from quant_core.util.errors import BitfrontError
from quant_core.util.process import log_levels
from quant_core.util.registry import load
from search.config.experiment import Experiment
from search.config.schedulers import SCHEDULERS, stops_trials
from search.sweeps.backend import BackendContext
from search.sweeps.ray.cluster import addresses, connected
from search.sweeps.ray.folders import sweep_folder
from search.sweeps.ray.placement import Placement, placement
from search.sweeps.ray.shipping import SentEvaluator, failed_with, shipped
from search.sweeps.ray.watch import ClusterWatch
from search.sweeps.sweep import Sweep


def run(sweep: Sweep, context: BackendContext) -> None:
    """Drive `sweep` to its end, or until `context.stopping()` is true after the running trials.

    The evaluator (network, calibration data, statistics, quantized weights so far) goes into the object store once; actors are kept
    from trial to trial. A trial whose worker dies, hangs or fails is run again up to `max_retries` times, then recorded as failed.

    Raises:
        InputError: no cluster at `[run] address`, or a task that cannot be pickled.
        BitfrontError: the cluster went away, or no worker can evaluate any policy.
    """
    section = context.experiment.run
    resources = placement(section, context.evaluator.device, torch.cuda.device_count())
    place = f"the cluster at {section.address}" if section.address else "a cluster of this machine"
    context.report(f"packing the network for workers of {place}", 0, 0)
    parcel = shipped(context.evaluator, context.experiment.task.name)
    of_failed_trials = {"ray.tune": logging.CRITICAL}  # of a failed trial the sweep's own summary tells
    said = f"Ray, or a kill, ended the process of this sweep. Every recorded trial is kept: {context.hint}."
    with sweep_folder(said) as folder, ClusterWatch() as watch:
        context.report(f"{'joining' if section.address else 'starting'} {place}", 0, 0)
        cluster = connected(section.address, resources, folder, context.report, parcel.content.nbytes)
        with cluster, log_levels(of_failed_trials):
            trainable = _trainable(context.experiment, resources, parcel)
            del parcel
            context.report(f"waiting for the first of {resources.workers} workers", 0, 0)
            watch.begin(*addresses())
            _tune(sweep, context, trainable, folder, resources.workers, watch)


def _trainable(experiment: Experiment, resources: Placement, parcel: SentEvaluator) -> Any:
    """Return the trainable of Tune, with its parameters in the object store."""
    from ray import tune

    from search.sweeps.ray.trainable import PolicyTrial

    section = experiment.run
    trainable = tune.with_parameters(
        PolicyTrial,
        evaluator=parcel,
        device=str(resources.device),
        threads=section.threads,
        timeout_s=section.trial_timeout_s,
        scored=experiment.device.objectives[0] if stops_trials(section.scheduler) else "",
    )
    return tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus})


def _tune(sweep: Sweep, context: BackendContext, trainable: Any, folder: Path, workers: int, watch: ClusterWatch) -> None:
    from ray import tune
    from ray.exceptions import RayError

    from search.sweeps.ray.adapter import GiveUp, SweepSearcher, Watch

    searcher = SweepSearcher(sweep, context)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_scheduler(context.experiment),
            num_samples=-1,
            max_concurrent_trials=workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            name="sweep",
            verbose=0,
            stop=GiveUp(searcher, lambda: watch.lost),
            callbacks=[Watch(searcher)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    said = ""
    try:
        tuner.fit()
    except (RayError, ConnectionError, TimeoutError) as error:
        said = " ".join(str(error).split())[:300]
    if watch.lost or said:
        raise BitfrontError(f"the Ray cluster went away: {watch.lost or said}. Every recorded trial is kept: {context.hint}.")
    if searcher.fault:
        raise failed_with(searcher.fault)


def _scheduler(experiment: Experiment) -> Any:
    """Return Tune's scheduler of the experiment, comparing distances to the front; None where none stops trials."""
    section, evaluate = experiment.run, experiment.evaluate
    if not stops_trials(section.scheduler):
        return None
    from search.sweeps.ray.near_front import NearFront

    kind = SCHEDULERS.get(section.scheduler)
    make = cast(Callable[..., Any], load(kind.path if kind else section.scheduler))
    rungs = 2 + (evaluate.training.epochs if evaluate.fidelity == "qat" else 0)
    return NearFront(make(rungs, **section.scheduler_options), experiment.device.objectives[1:])
