"""The section of an experiment on where and how its trials run."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quant_core.util.errors import InputError


class RunSection(BaseModel):
    """The backend of the trials. One torch thread per trial is the fastest for small networks and keeps figures
    the same on every machine.

    Attributes:
        backend: "local" (this process), "ray", or "package.module:function".
        device: where networks run: "auto", "cpu", "cuda", "cuda:1", "mps" (docs/gpu.md).
        dtype: of matrix products and convolutions when a policy is measured.
        threads: torch threads per trial; 0 leaves torch's own choice.
        address: Ray cluster to join: "" starts one on this machine, "auto" or "host:port" joins a running one.
        workers, cpus_per_trial, gpus_per_trial: trials at once, and what each is given (ray). Trials on a GPU are given one where
            `gpus_per_trial` is 0.
        minutes: after so many minutes of trials no new one is begun, and the sweep is stopped; its uniform policies go from the widest
            down. 0: no limit.
        max_retries: how often a trial whose worker died or failed is run again (ray).
        trial_timeout_s: after so many seconds a trial counts as hung and its worker is ended; 0: never (ray).
        scheduler: of `search.config.schedulers.SCHEDULERS`: what ends trials early ("race"; ray), or "pbt" for training.
        scheduler_options: its options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str = "local"
    device: str = Field(default="auto", pattern=r"^(auto|[a-z]+(:\d+)?)$")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=1, ge=0)
    address: str = ""
    workers: int = Field(default=2, ge=1)
    cpus_per_trial: float = Field(default=1, gt=0)
    gpus_per_trial: float = Field(default=0, ge=0)
    minutes: float = Field(default=0, ge=0, allow_inf_nan=False)
    max_retries: int = Field(default=2, ge=0)
    trial_timeout_s: float = Field(default=0, ge=0)
    scheduler: str = "none"
    scheduler_options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _gpus_are_used(self) -> "RunSection":
        if self.device == "cpu" and self.gpus_per_trial:
            raise ValueError(f"device = 'cpu' and gpus_per_trial = {self.gpus_per_trial:g} given; a trial on the CPU needs no GPU")
        return self

    @property
    def at_once(self) -> int:
        """Return the number of trials at once: one in this process, `workers` elsewhere."""
        return 1 if self.backend == "local" else self.workers

    def changed(self, changes: Mapping[str, object]) -> "RunSection":
        """Return this section with other values.

        Raises:
            InputError: a value that is not legal.
        """
        try:
            return RunSection.model_validate(self.model_dump() | dict(changes))
        except ValidationError as error:
            faults = [f"run.{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()]
            raise InputError("; ".join(faults)) from None
