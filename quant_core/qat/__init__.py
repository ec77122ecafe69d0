"""Quantization-aware training: float master weights, quantized forward, straight-through backward. This file is free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import unknown

QAT_METHODS: Mapping[str, str] = {
    "ste": "quant_core.qat.ste:METHOD",
    "lsq": "quant_core.qat.lsq:METHOD",
    "pact": "quant_core.qat.pact:METHOD",
    "dorefa": "quant_core.qat.dorefa:METHOD",
    "mad": "quant_core.qat.mad:METHOD",
    "ttq": "quant_core.qat.ttq:METHOD",
    "binary": "quant_core.qat.binary:METHOD",
    "codebook": "quant_core.qat.codebook:METHOD",
}

BATCH_NORMS = ("freeze", "fold")


class QatError(BitfrontError):
    """Training went wrong: a loss that is not finite, a checkpoint of another run."""


@dataclass(frozen=True, slots=True)
class QatConfig:
    """How a policy is trained. Equal configurations give equal weights on one device, number of threads and build of torch.

    Attributes:
        method: a key of `QAT_METHODS`, or `package.module:attribute`. Tensors that it does not cover are trained by `ste`.
        epochs: passes over the training split.
        lr: peak learning rate.
        optimizer, schedule: names of the tables in `quant_core.qat.optimizers`, or `package.module:attribute`.
        step_lr: learning rate of the parameters of the method (steps, clips, levels), relative to `lr`.
        weight_decay: L2 on weights; not on batch norm, biases, nor the parameters of the method (but on PACT's clip, as in its paper).
        seed: of the order of the batches and of every random draw.
        batch_norm: "freeze": batch statistics until `freeze_after`, running statistics afterwards; "fold": folded before training.
        freeze_after: fraction of the epochs after which batch norm statistics, estimated anew then, and input ranges are frozen; 1.0:
            at the end. With ternary and binary weights anything earlier may diverge.
        clip: largest norm of the gradient; 0 does not clip.
        distill: share of the loss, 0 to 1, that is distillation from the float network (Hinton et al. 2015, arXiv:1503.02531).
        temperature: of the distillation.
        autocast: mixed precision: "" is off, "bfloat16" or "float16" where the device can.

    Raises:
        InputError: with every fault.
    """

    method: str = "lsq"
    epochs: int = 5
    lr: float = 0.01
    optimizer: str = "sgd"
    schedule: str = "cosine"
    step_lr: float = 1.0
    weight_decay: float = 1e-4
    seed: int = 0
    batch_norm: str = "freeze"
    freeze_after: float = 1.0
    clip: float = 0.0
    distill: float = 0.0
    temperature: float = 2.0
    autocast: str = ""

    def __post_init__(self) -> None:
        if self.method not in QAT_METHODS and ":" not in self.method:
            raise unknown("QAT method", self.method, QAT_METHODS)
        rules = (
            (self.epochs >= 1, "epochs", self.epochs, "1 or more"),
            (self.lr > 0, "lr", self.lr, "a positive number"),
            (self.step_lr >= 0, "step_lr", self.step_lr, "0 or more"),
            (self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more"),
            (self.batch_norm in BATCH_NORMS, "batch_norm", self.batch_norm, " or ".join(BATCH_NORMS)),
            (0 <= self.freeze_after <= 1, "freeze_after", self.freeze_after, "a fraction of the epochs, 0 to 1"),
            (self.clip >= 0, "clip", self.clip, "0 (no clipping) or a positive norm"),
            (0 <= self.distill <= 1, "distill", self.distill, "a share of the loss, 0 to 1"),
            (self.temperature > 0, "temperature", self.temperature, "a positive number"),
            (self.autocast in ("", "bfloat16", "float16"), "autocast", self.autocast, "'', 'bfloat16' or 'float16'"),
        )
        faults = [f"{name} = {value!r} given; {legal} is needed" for valid, name, value, legal in rules if not valid]
        if faults:
            raise InputError("; ".join(faults) + ".")
