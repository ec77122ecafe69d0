"""Schema version 1 of a device file: one frozen pydantic table per TOML table. Units are in the keys; every table names its source."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hw_models.schema.codes import expand, expand_all
from quant_core.util.errors import InputError

SCHEMA = 1


class Table(BaseModel):
    """A TOML table: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _code(text: str) -> str:
    try:
        expand(text)
    except InputError as error:
        raise ValueError(str(error)) from None
    return text


def _pair(text: str) -> str:
    if text.count("/") != 1:
        raise ValueError(f"{text!r} is no pair; write WEIGHT/ACTIVATION, as in 'int8/int8'")
    for part in text.split("/"):
        _code(part)
    return text


Code = Annotated[str, AfterValidator(_code)]
Pair = Annotated[str, AfterValidator(_pair)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
SourceIds = str | tuple[str, ...]
LayerKind = Literal["linear", "conv", "depthwise", "conv_transpose", "embedding"]
Sign = Literal["signed", "unsigned", "any"]


class Compute(Table):
    """Base of every model's `[compute]` table: whatever it holds, it names its source."""

    source: SourceIds


class Identity(Table):
    """What the device is. `kind` is the model that computes its cost, `batch` the examples of one pass; `ties` names the activations
    that must be of one format: the `inputs` of several layers, and the operands and results of `sums`, on integer-only targets."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: str
    kind: str
    process: str = ""
    clock_hz: Positive | None = None
    batch: Annotated[int, Field(ge=1)] = 1
    ties: tuple[Literal["inputs", "sums"], ...] = ()
    source: SourceIds


class CapabilityTable(Table):
    """What layers of some kinds may take. A plateau makes a code, or a pair of codes, legal and says as which other it runs."""

    layers: tuple[LayerKind, ...]
    weights: tuple[Code, ...]
    activations: tuple[Code, ...]
    pairs: tuple[Pair, ...] = ()
    weight_sign: Sign = "any"
    activation_sign: Sign = "any"
    weight_plateau: dict[Code, Code] = {}
    activation_plateau: dict[Code, Code] = {}
    pair_plateau: dict[Pair, Pair] = {}
    source: SourceIds

    def runs_as(self, slot: Literal["weight", "activation"]) -> dict[str, str]:
        """Return every legal code of a slot -> the code that it costs as."""
        native = expand_all(self.weights if slot == "weight" else self.activations)
        plateau = self.weight_plateau if slot == "weight" else self.activation_plateau
        return {code: code for code in native} | {code: target for text, target in plateau.items() for code in expand(text)}


class MemoryLevel(Table):
    """One level of memory; the speed is in bits per cycle or in bytes per second."""

    name: str
    size_bytes: Positive | None = None
    bits_per_cycle: Positive | None = None
    bytes_per_s: Positive | None = None
    read_pj_per_bit: NotNegative | None = None
    write_pj_per_bit: NotNegative | None = None
    source: SourceIds


class Energy(Table):
    """Energy of the core; memory energy stands with each memory level."""

    core_pj_per_cycle: Positive | None = None
    active_power_w: Positive | None = None
    source: SourceIds


class Overhead(Table):
    """Time that a layer takes whatever its size."""

    launch_s: NotNegative = 0.0
    source: SourceIds


class Calibration(Table):
    """A fitted t = c0 + c1 MACs + c2 (input bytes + 4 output elements) + c3 weight bytes + c4 outputs + c5 depth, for one pair of codes."""

    pair: Pair
    c0_s: NotNegative
    c1_s_per_mac: NotNegative
    c2_s_per_byte: NotNegative = 0.0
    c3_s_per_byte: NotNegative = 0.0
    c4_s_per_output: NotNegative = 0.0
    c5_s_per_depth: NotNegative = 0.0
    source: SourceIds


class Accuracy(Table):
    """How far off the latency of a layer or network is that the fit of the model did not see; `hw_models.validation` computes it."""

    latency_mean_percent: NotNegative
    latency_max_percent: NotNegative
    source: SourceIds


class Constraints(Table):
    """Hard limits: activations alive at once, and weights."""

    sram_bytes: Positive | None = None
    flash_bytes: Positive | None = None
    source: SourceIds


class Source(Table):
    """Where a number comes from."""

    id: str
    title: str
    where: str = ""


class Point(Table):
    """One golden value: the measured or published figure, and the inputs that the model is given."""

    name: str
    expected: float
    given: dict[str, float | str] = {}


class Golden(Table):
    """An executable check: `check` says how; the figures are in `points` or in a CSV `file` beside the device file."""

    name: str
    check: str
    metric: str
    unit: str
    file: str = ""
    points: tuple[Point, ...] = ()
    tolerance_mean_percent: NotNegative
    tolerance_max_percent: NotNegative
    source: SourceIds


class DeviceFile(Table):
    """A whole device file; the schema of `[compute]` belongs to the model that `identity.kind` names."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    identity: Identity
    capability: Annotated[tuple[CapabilityTable, ...], Field(min_length=1)]
    compute: dict[str, Any]
    memory: tuple[MemoryLevel, ...] = ()
    energy: Energy | None = None
    overhead: Overhead | None = None
    calibration: tuple[Calibration, ...] = ()
    accuracy: Accuracy | None = None
    constraints: Constraints | None = None
    source: Annotated[tuple[Source, ...], Field(min_length=1)]
    golden: tuple[Golden, ...] = ()
