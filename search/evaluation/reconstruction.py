"""Block reconstruction of a policy: its curvature from the task, its blocks kept in the cache folder as they are done."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.ptq.engine import PostTraining
from quant_core.qat import checkpoint
from quant_core.qat.checkpoint import DamagedCheckpointError
from quant_core.reconstruct import ReconstructConfig
from quant_core.reconstruct.results import Progress, Reconstructed
from quant_core.reconstruct.run import reconstruct
from quant_core.spec.policy import Policy, require_float_kv
from quant_core.util.cache_key import cache_key
from quant_core.util.errors import InputError
from search.evaluation.divergence import ValueDivergence, class_divergence
from search.evaluation.training import EVALUATION_CODE, cached_file

Report = Callable[[Progress, int], None]


def silent(_progress: Progress, _count: int) -> None:
    """Report nothing."""


def reconstructed(
    engine: PostTraining,
    network: nn.Module,
    policy: Policy,
    batches: Sequence[Any],
    config: ReconstructConfig,
    *,
    class_axis: int | None,
    key: str = "",
    report: Report = silent,
) -> Reconstructed:
    """Return the network reconstructed under a policy; a run that was killed goes on at the block where it was.

    Args:
        engine: made of `network`.
        network: float.
        policy: for every layer.
        batches: calibration inputs.
        config: how.
        class_axis: axis of the outputs that holds the logits of classes; None: the outputs are values.
        key: names the network and its data; blocks are then kept in the cache folder. "": they are not.
        report: called with the progress at the start and after every block, and with how many blocks there are.

    Raises:
        InputError, OSError: as `quant_core.reconstruct.run.reconstruct`.
    """
    require_float_kv(policy)
    identity = cache_key("reconstruct", EVALUATION_CODE, key, policy.to_json(), config)
    path, progress = cached_file("reconstruct", identity) if key else None, Progress()
    if path is not None:
        with contextlib.suppress(DamagedCheckpointError):  # it is replaced
            state = checkpoint.load(path, identity)
            progress = Progress() if state is None else Progress.of(state)

    def keep(done: Progress, count: int) -> None:
        report(done, count)
        if path is not None and done.blocks:
            with contextlib.suppress(InputError):  # a cache that cannot be written costs time, not the trial
                checkpoint.save(path, identity, done.state())

    return reconstruct(
        engine,
        network,
        policy,
        batches,
        config,
        direction=_direction(class_axis),
        distance=_distance(class_axis),
        room_bytes=engine.cache_bytes,
        progress=progress,
        report=keep,
    )


def figures(result: Reconstructed) -> tuple[dict[str, float], ...]:
    """Return the figures of every block for a trial's record: number, errors at the start and kept, 1 for a block and 0 for a layer.

    Those of the last stage have `whole` = 1; their errors are divergences from the float network's outputs.
    """
    blocks = [*result.blocks, *([] if result.whole is None else [result.whole])]
    return tuple(
        {"epoch": float(number), "loss": block.end, "loss_start": block.start, "cut": float(block.cut)}
        | ({"whole": 1.0} if block is result.whole else {})
        for number, block in enumerate(blocks, 1)
    )


def _direction(axis: int | None) -> Callable[[Tensor, torch.Generator], Tensor]:
    def direction(outputs: Tensor, generator: torch.Generator) -> Tensor:
        return (class_divergence(outputs, axis) or ValueDivergence(1.0)).direction(outputs, generator)

    return direction


def _distance(axis: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    def distance(outputs: Tensor, wanted: Tensor) -> Tensor:
        classes = class_divergence(outputs, axis)
        if classes is not None:
            return classes.summed(outputs, wanted) * (outputs.shape[classes.axis] / outputs.numel())
        return ValueDivergence(float(wanted.var(correction=0).clamp_min(1e-12))).summed(outputs, wanted) / outputs.numel()

    return distance
