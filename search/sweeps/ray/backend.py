"""The `ray` backend: Ray Tune runs the trials of a sweep on several workers."""

import logging
import tempfile
from collections.abc import Callable
from typing import Any, cast

import torch

from quant_core.util.process import log_levels
from quant_core.util.registry import load
from search.config.experiment import Experiment
from search.config.schedulers import SCHEDULERS, stops_trials
from search.sweeps.backend import BackendContext
from search.sweeps.ray.cluster import connected
from search.sweeps.ray.placement import placement, sent, store_bytes
from search.sweeps.ray.shipment import Shipment
from search.sweeps.sweep import Sweep


def run(sweep: Sweep, context: BackendContext) -> None:
    """Drive `sweep` to its end, or until `context.stopping()` is true after the running trials.

    The evaluator (network, calibration data, statistics, quantized weights so far) goes into the object store once; actors are kept
    from trial to trial. A trial whose worker dies, hangs or fails is run again up to `max_retries` times, then recorded as failed.

    Raises:
        InputError: no cluster at `[run] address`.
    """
    section = context.experiment.run
    of_failed_trials = {"ray.tune": logging.CRITICAL}  # of a failed trial the sweep's own summary tells
    resources = placement(section, context.evaluator.device, torch.cuda.device_count())
    shipment = sent(context.evaluator)
    cluster = connected(section.address, resources.workers, resources.cpus, resources.gpus, store_bytes(shipment))
    with cluster, log_levels(of_failed_trials):
        _tune(sweep, context, shipment)


def _tune(sweep: Sweep, context: BackendContext, shipment: Shipment) -> None:
    from ray import tune

    from search.sweeps.ray.adapter import SweepSearcher, Watch
    from search.sweeps.ray.trainable import PolicyTrial

    section, searcher = context.experiment.run, SweepSearcher(sweep, context)
    resources = placement(section, context.evaluator.device, torch.cuda.device_count())
    scheduler, scored = _scheduler(context.experiment), context.experiment.device.objectives[0] if stops_trials(section.scheduler) else ""
    trainable = tune.with_parameters(
        PolicyTrial,
        evaluator=shipment,
        device=str(resources.device),
        threads=section.threads,
        timeout_s=section.trial_timeout_s,
        scored=scored,
    )
    with tempfile.TemporaryDirectory(prefix="bf-tune-", ignore_cleanup_errors=True) as folder:
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=resources.workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="sweep",
                verbose=0,
                callbacks=[Watch(searcher)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


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
