"""The sections of an experiment on the evaluation of a policy (fidelity, training, ladder, sizes of the splits) and its formats."""

import dataclasses
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from quant_core.qat import QatConfig
from quant_core.reconstruct import ReconstructConfig
from quant_core.util.text import listed

FIDELITIES = Literal["ptq", "qat"]
RUNGS = Literal["adaround", "reconstruct", "qat"]


class EvaluateSection(BaseModel):
    """Fidelity, training, ladder and sizes of the evaluation. Sizes are numbers of examples; 0 means all.

    Attributes:
        fidelity: what every trial is evaluated at: "ptq" quantizes the float network; "qat" also trains every policy.
        ladder: rungs above "ptq" that the policies nearest to the front climb when the search is over (`search.sweeps.promotion`).
        top_k: how many policies are promoted to each rung (`climbers` in experiments of earlier versions).
        epochs: of training; 0: as `qat` says.
        start: training starts from the "float" weights, or from those of the "nearest" policy that is trained already.
        sensitivity: how the searchers' estimates are made: "forward" measures one choice at a time; "gradient" and "fisher" score all
            by one backward pass; "auto" scores all by gradients and measures those that matter (`search.evaluation.adaptive`).
        sensitivity_passes: what "auto" may spend, in forward passes over the examples (at most 512 of the calibration split).
        metric: of the task's metrics, the one that is searched for, in place of its first.
        calib_from: "batch_norms" makes the calibration inputs (`calib` of them, 64 with 0) of the network's batch norms: there are no data.
        data_mib: what the batches of a split may take in memory; a larger one is read anew at every pass (`calib` is always kept).
        qat: fields of `quant_core.qat.QatConfig`: method, epochs, lr, distill, ...
        reconstruct: fields of `quant_core.reconstruct.ReconstructConfig`: steps, batch, lr, drop, loss, ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fidelity: FIDELITIES = "ptq"
    ladder: tuple[RUNGS, ...] = ()
    top_k: int = Field(default=8, ge=1, validation_alias=AliasChoices("top_k", "climbers"))
    epochs: int = Field(default=0, ge=0)
    start: Literal["float", "nearest"] = "float"
    sensitivity: Literal["auto", "forward", "gradient", "fisher"] = "auto"
    sensitivity_passes: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    metric: str = ""
    qat: dict[str, Any] = {}
    reconstruct: dict[str, Any] = {}
    calib: int = Field(default=0, ge=0)
    calib_from: Literal["data", "batch_norms"] = "data"
    valid: int = Field(default=0, ge=0)
    test: int = Field(default=0, ge=0)
    bias_correction: bool = True
    scale_correction: bool = True
    cache_mib: int = Field(default=256, ge=1)
    data_mib: int = Field(default=512, ge=0)

    @model_validator(mode="after")
    def _qat_is_known(self) -> "EvaluateSection":
        names = [field.name for field in dataclasses.fields(QatConfig)]
        wrong = sorted(set(self.qat) - set(names))
        if wrong:
            raise ValueError(f"qat has no field {wrong[0]!r}; known: {listed(names, 40)}")
        if self.epochs and "epochs" in self.qat:
            raise ValueError(f"epochs = {self.epochs} and qat.epochs = {self.qat['epochs']} given; give one of them")
        _ = self.training
        return self

    @model_validator(mode="after")
    def _reconstruct_is_known(self) -> "EvaluateSection":
        names = [field.name for field in dataclasses.fields(ReconstructConfig)]
        wrong = sorted(set(self.reconstruct) - set(names))
        if wrong:
            raise ValueError(f"reconstruct has no field {wrong[0]!r}; known: {listed(names, 40)}")
        _ = self.reconstruction
        return self

    @model_validator(mode="after")
    def _ladder_climbs(self) -> "EvaluateSection":
        if len(set(self.ladder)) != len(self.ladder):
            raise ValueError(f"ladder = {list(self.ladder)} given; each rung once, as in ladder = ['adaround', 'qat']")
        if self.ladder and self.fidelity == "qat":
            raise ValueError("a ladder climbs from fidelity = 'ptq'; with fidelity = 'qat' every policy is trained anyway")
        return self

    @property
    def training(self) -> QatConfig:
        """Return the configuration of training.

        Raises:
            InputError: a value of `qat` that is not legal.
        """
        return QatConfig(**(self.qat | ({"epochs": self.epochs} if self.epochs else {})))

    @property
    def reconstruction(self) -> ReconstructConfig:
        """Return the configuration of block reconstruction.

        Raises:
            InputError: a value of `reconstruct` that is not legal.
        """
        return ReconstructConfig(**self.reconstruct)


class ExportSection(BaseModel):
    """The formats that the front is to be exported to: a space in which some layer has no choice that they hold is refused at the start.

    Attributes:
        formats: of `bitfront export -f`; none: everything that can be simulated is searched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    formats: tuple[str, ...] = ()
