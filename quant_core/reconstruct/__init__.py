"""Block reconstruction: a block's rounding, scales, biases and input steps are learned for its output. This file is free of torch.

Li et al., BRECQ, ICLR 2021 (arXiv 2102.05426); Wei et al., QDrop, ICLR 2022 (arXiv 2203.05740).
"""

from dataclasses import dataclass

from quant_core.util.errors import InputError

LOSSES = ("fisher", "mse")
PART = 4
"""Examples that run at once; a step of the optimiser takes one or more such parts."""


@dataclass(frozen=True, slots=True)
class ReconstructConfig:
    """How blocks are reconstructed. Equal configurations give equal weights on one device, number of threads and build of torch.

    Attributes:
        steps: of the optimiser, per block.
        batch: examples per step.
        lr: of the rounding variables.
        step_lr: of the logarithms of input steps and of weight scales, and of biases in units of the output's deviation.
        drop: probability that a value is left unquantized while its block is learned (QDrop); 0: never.
        loss: "fisher" weights squared errors by squared gradients (BRECQ, equation 10), "mse" does not.
        joined: layers up to which neighbouring blocks are joined.
        whole: steps of the last stage, in which scales, biases and input steps of all layers are learned together; 0: there is none.
        whole_lr: of the last stage; its variables are those of `step_lr`.
        seed: of the order of the batches and of every random draw.

    Raises:
        InputError: with every fault.
    """

    steps: int = 500
    batch: int = 16
    lr: float = 0.05
    step_lr: float = 0.001
    drop: float = 0.5
    loss: str = "fisher"
    joined: int = 3
    whole: int = 60
    whole_lr: float = 0.003
    seed: int = 0

    def __post_init__(self) -> None:
        rules = (
            (self.steps >= 1, "steps", self.steps, "1 or more"),
            (self.batch >= 1, "batch", self.batch, "1 or more"),
            (self.lr > 0, "lr", self.lr, "a positive number"),
            (self.step_lr >= 0, "step_lr", self.step_lr, "0 or more"),
            (0 <= self.drop < 1, "drop", self.drop, "a probability below 1"),
            (self.loss in LOSSES, "loss", self.loss, " or ".join(LOSSES)),
            (self.joined >= 1, "joined", self.joined, "1 or more"),
            (self.whole >= 0, "whole", self.whole, "0 or more"),
            (self.whole_lr > 0, "whole_lr", self.whole_lr, "a positive number"),
        )
        faults = [f"{name} = {value!r} given; {legal} is needed" for valid, name, value, legal in rules if not valid]
        if faults:
            raise InputError("; ".join(faults) + ".")
