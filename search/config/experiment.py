"""The experiment: what a sweep is asked to do. Validated by pydantic; every fault is reported at once, unknown keys are refused."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from quant_core.spec.formats import FORMATS
from quant_core.spec.kv_cache import require_kv
from quant_core.spec.quant_spec import FLOAT, QuantSpec, SpecError, parse
from quant_core.util.errors import InputError
from search.config.evaluation import EvaluateSection, ExportSection
from search.config.file_forms import ChoicesForm
from search.config.limits import Budget
from search.config.running import RunSection
from search.config.schedulers import check, split
from search.config.store import DEFAULT_URI
from search.config.targets import AUTO


class _Section(BaseModel):
    """Immutable; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _expand(table: dict[str, Any]) -> list[str]:
    """Return the text forms of a table of alternatives: `{format = "int", bits = [2, 4], granularity = "channel"}`."""
    unknown = set(table) - {"format", "bits", "granularity", "clipping", "rounding", "scale", "symmetric"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}; allowed: format, bits, granularity, clipping, rounding, scale, symmetric")
    axes = [
        [""] if key not in table else _as_list(table[key]) for key in ("bits", "granularity", "clipping", "rounding", "scale", "symmetric")
    ]
    texts = []
    for name in _as_list(table.get("format", "int")):
        numbered = name in FORMATS and len(FORMATS[name].bits) > 1
        if numbered and "bits" not in table:
            raise ValueError(f"format {name!r} needs 'bits', for example bits = [2, 4, 8]")
        for bits, *rest, symmetric in itertools.product(*axes):
            head = f"{name}{_whole_bits(bits)}" if numbered else name
            texts.append(":".join([head, *(part for part in rest if part), *(["affine"] if symmetric is False else [])]))
    return texts


def _whole_bits(bits: object) -> int:
    if not isinstance(bits, int) or isinstance(bits, bool):
        raise ValueError(f"bits = {bits!r} given; whole numbers are needed, for example bits = [2, 4, 8]")
    return bits


def _read_choices(value: Any) -> Any:
    """Accept a spec text, a list of texts, a table of alternatives, or a list that mixes them; return specs, of "auto" none."""
    if value == AUTO:
        return ()
    specs: list[QuantSpec] = []
    faults = []
    for entry in _as_list(value):
        try:
            specs += (
                [entry]
                if isinstance(entry, QuantSpec)
                else [parse(text) for text in (_expand(entry) if isinstance(entry, dict) else [str(entry)])]
            )
        except SpecError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))
    if not specs:
        raise ValueError("no choice given; name at least one format, for example ['int4:channel:mse', 'int8:channel']")
    return tuple(dict.fromkeys(specs))


def _write_choices(specs: Sequence[QuantSpec]) -> list[str] | str:
    return [str(spec) for spec in specs] or AUTO


Choices = Annotated[
    tuple[QuantSpec, ...], BeforeValidator(_read_choices, json_schema_input_type=ChoicesForm), PlainSerializer(_write_choices)
]


Transforms = Annotated[
    tuple[Literal["none", "smooth", "rotate"], ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1),
]


class TaskSection(_Section):
    """The network and its data.

    Attributes:
        name: a task of `bitfront list tasks` or "package.module:function".
        options: keyword arguments of the task's function.
    """

    name: str
    options: dict[str, Any] = {}


class Rule(_Section):
    """One rule over the space; exactly one of `fix`, `restrict`, `tie`, `untie` names the layers.

    Layers: a shell pattern ("blocks.*"), "first", "last", or "kind:depthwise". `untie` leaves them out of the ties that the device or an
    export format asks for.
    """

    fix: str = ""
    restrict: str = ""
    tie: str = ""
    untie: str = ""
    weight: Choices | None = None
    activation: Choices | None = None
    slot: Literal["weight", "activation", ""] = ""

    @model_validator(mode="after")
    def _one_verb(self) -> "Rule":
        verbs = [verb for verb in ("fix", "restrict", "tie", "untie") if getattr(self, verb)]
        if len(verbs) != 1:
            raise ValueError(f"{len(verbs)} of 'fix', 'restrict', 'tie', 'untie' given; a rule has exactly one, naming its layers")
        if verbs[0] == "untie":
            if self.weight or self.activation:
                raise ValueError("an untie takes no choices; slot = 'weight' or 'activation' limits it to one of them")
        elif verbs[0] == "tie":
            if not self.slot or self.weight or self.activation:
                raise ValueError("a tie needs slot = 'weight' or slot = 'activation', and no choices")
        elif self.slot or not (self.weight or self.activation):
            raise ValueError(f"a {verbs[0]} needs 'weight' and/or 'activation' choices, and no slot")
        if verbs[0] == "fix" and any(len(choices) != 1 for choices in (self.weight, self.activation) if choices):
            raise ValueError("a fix takes one choice per slot; use 'restrict' for several")
        return self

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that a tie or an untie is about."""
        return (self.slot,) if self.slot else ("weight", "activation")


class SpaceSection(_Section):
    """The choices of every layer, before the rules; `parameters` are patterns of further parameters of two or more axes to be layers.

    "auto": what the device runs, layer by layer; `space = "auto"` is short for both.

    Attributes:
        network: the transforms of the float network among which a policy has one, see docs/transforms.md.
        kv: the formats of the keys and values of attention, of which a policy has one, see docs/kv-cache.md.
    """

    weight: Choices
    activation: Choices
    network: Annotated[
        tuple[Literal["none", "smooth", "rotate"], ...],
        BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ] = ("none",)
    kv: Choices = (FLOAT,)
    parameters: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    @field_validator("kv")
    @classmethod
    def _rows_of_their_own(cls, kv: tuple[QuantSpec, ...]) -> tuple[QuantSpec, ...]:
        if not kv:
            raise ValueError('"auto" given; name formats, as in kv = ["float", "int8:token", "int4:group64"]')
        return tuple(map(require_kv, kv))


class DeviceSection(_Section):
    """The target: a device of `bitfront devices` or the path of a device file; what is minimized (`error`, or the
    finer `loss`, first) and what is limited: costs, and the task's metrics ("float - 0.5")."""

    name: str
    objectives: tuple[str, ...] = ("error", "weight_bytes")
    budget: dict[str, Budget] = {}

    @model_validator(mode="after")
    def _quality_first(self) -> "DeviceSection":
        if self.objectives[:1] not in (("error",), ("loss",)) or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(
                f"objectives = {list(self.objectives)} given; 'error' comes first (or the finer 'loss'), each name once: "
                "['error', 'weight_bytes']"
            )
        return self


class SearchSection(_Section):
    """The searcher and its trials: a searcher of `bitfront list searchers` or "package.module:attribute"."""

    searcher: str = "auto"
    options: dict[str, Any] = {}
    trials: int = Field(default=60, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0)


class TrackSection(_Section):
    """The place of the record.

    Attributes:
        uri: MLflow tracking uri; credentials belong into the environment.
        experiment: MLflow experiment that holds the sweep.
        system_metrics_s: seconds between samples of the driver's processor, memory, disk and network; 0: none.
    """

    uri: str = DEFAULT_URI
    experiment: str = "bitfront"
    system_metrics_s: float = Field(default=0, ge=0)


class Experiment(_Section):
    """The whole experiment file."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.+-]{0,100}$")
    task: TaskSection
    space: SpaceSection
    device: DeviceSection
    search: SearchSection = SearchSection()
    evaluate: EvaluateSection = EvaluateSection()
    track: TrackSection = TrackSection()
    run: RunSection = RunSection()
    export: ExportSection = ExportSection()

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        """Turn `searcher = "ray:ASHA+random"` into a searcher and a scheduler."""
        search, run = (data.get(name) or {} for name in ("search", "run")) if isinstance(data, dict) else ({}, {})
        if not isinstance(search, dict) or not isinstance(run, dict):
            return data
        searcher, scheduler = split(str(search.get("searcher", "")))
        if scheduler and run.get("scheduler", scheduler) != scheduler:
            raise ValueError(f"searcher = {search['searcher']!r} and run.scheduler = {run['scheduler']!r} given; name one scheduler")
        return {**data, "search": {**search, "searcher": searcher}, "run": {**run, "scheduler": scheduler}} if scheduler else data

    @field_validator("space", mode="before")
    @classmethod
    def _whole_space(cls, space: Any) -> Any:
        return {"weight": AUTO, "activation": AUTO} if space == AUTO else space

    @field_validator("name")
    @classmethod
    def _name_is_no_folder(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError(f"{name!r} given; a name with a letter or a digit is needed: it names folders")
        return name

    @field_validator("run")
    @classmethod
    def _scheduler_fits(cls, run: RunSection, info: ValidationInfo) -> RunSection:
        evaluate = info.data.get("evaluate")
        trains = evaluate is None or "qat" in (evaluate.fidelity, *evaluate.ladder)
        check(run.scheduler, run.scheduler_options, run.backend, trains)
        return run

    @model_validator(mode="after")
    def _kv_without_training(self) -> "Experiment":
        rungs = {"reconstruct", "qat"} & {self.evaluate.fidelity, *self.evaluate.ladder}
        quantized = [str(spec) for spec in self.space.kv if not spec.is_float]
        if rungs and quantized:
            raise ValueError(
                f"space.kv = {quantized} and the fidelity {' and '.join(sorted(rungs))} given; keys and values are simulated without "
                "training: use 'ptq' and 'adaround', or leave kv out"
            )
        return self

    def with_budget(self, budget: Mapping[str, object]) -> "Experiment":
        """Return the same experiment under another budget.

        Raises:
            InputError: a limit cannot be read.
        """
        data = self.model_dump(mode="json")
        data["device"]["budget"] = dict(budget)
        try:
            return Experiment.model_validate(data)
        except ValidationError as error:
            faults = [(".".join(map(str, fault["loc"][2:])), fault["msg"].removeprefix("Value error, ")) for fault in error.errors()]
            raise InputError("; ".join(f"budget {place}: {message}" for place, message in faults)) from None
