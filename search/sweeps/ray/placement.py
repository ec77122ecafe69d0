"""Which resources a trial is given on a cluster, on which device it runs there, and how the evaluator gets to it."""

from dataclasses import dataclass

import torch

from quant_core.util.devices import CPU, relocated
from quant_core.util.errors import InputError
from search.config.running import RunSection
from search.sweeps.backend import PolicyEvaluator


@dataclass(frozen=True)
class Placement:
    """The resources of trials.

    Attributes:
        workers: trials at once.
        cpus, gpus: of one trial.
    """

    workers: int
    cpus: float
    gpus: float

    @property
    def device(self) -> torch.device:
        """Where a trial runs: on the first of the GPUs that Ray shows its worker, which is all that the worker sees; else on the CPU."""
        return torch.device("cuda:0") if self.gpus else CPU


def placement(section: RunSection, evaluator: torch.device, gpus_here: int) -> Placement:
    """Return the resources of trials: a GPU for one where the evaluator is on a GPU and `gpus_per_trial` is 0.

    On a cluster of this machine alone (`address` is "") no more trials run at once than its GPUs allow.

    Raises:
        InputError: a trial needs more GPUs than this machine has, or the evaluator is on a device that Ray does not give to workers.
    """
    if evaluator.type not in ("cpu", "cuda"):
        raise InputError(f"run.device = '{evaluator.type}' given with backend = 'ray', whose workers run on cpu or cuda; give one of them.")
    gpus = section.gpus_per_trial or float(evaluator.type == "cuda")
    workers = section.workers
    if gpus and not section.address:
        fit = int(gpus_here / gpus + 1e-9)
        if not fit:
            raise InputError(
                f"run.gpus_per_trial = {gpus:g} given; torch sees {gpus_here} GPUs on this machine. Give fewer, a share as in 0.5, or "
                f"run.address of a cluster that has them."
            )
        workers = min(workers, fit)
    return Placement(workers, section.cpus_per_trial, gpus)


def sent(evaluator: PolicyEvaluator) -> PolicyEvaluator:
    """Return the evaluator as it goes into the object store: with its tensors on the CPU; itself where they are."""
    return placed(evaluator, CPU)


def placed(evaluator: PolicyEvaluator, device: torch.device) -> PolicyEvaluator:
    """Return the evaluator with all its tensors on `device`; itself where they are."""
    if evaluator.device == device:
        return evaluator
    from ray import cloudpickle  # the engine's hooks are closures, which pickle does not take

    return relocated(evaluator, device, cloudpickle)
