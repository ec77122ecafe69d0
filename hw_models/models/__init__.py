"""Cost models: each turns a device file into the time and energy of one layer under every choice at once.

A model module exports one `Model`, named here; a device file names it in `identity.kind` (or names the user's own
`package.module:attribute`). Adding a model = one module + one line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hw_models.device import Device
from hw_models.schema.codes import code_bits
from hw_models.schema.device_file import Compute, Golden
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.registry import load, resolve, unknown

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MODELS = {
    "counts": "hw_models.models.counts:MODEL",
    "bitfusion": "hw_models.models.bitfusion.model:MODEL",
    "bitserial": "hw_models.models.bitserial:MODEL",
    "lut": "hw_models.models.lut:MODEL",
    "measured": "hw_models.models.measured:MODEL",
    "mcu": "hw_models.models.mcu:MODEL",
    "mpic": "hw_models.models.mpic:MODEL",
    "roofline": "hw_models.models.roofline:MODEL",
    "mac_energy": "hw_models.models.mac_energy:MODEL",
}
# Golden checks that every model has. A check that costs policies lives in hw_models.validation, one that asks a formula beside it.
GOLDEN_CHECKS = {
    "policies": "hw_models.validation.golden:whole_policies",
    "entries": "hw_models.validation.golden:entries",
    "uniform_cycles": "hw_models.validation.golden:uniform_cycles",
}


@dataclass(frozen=True, eq=False)
class LayerChoices:
    """The K choices of one layer, as the device runs them.

    Attributes:
        policies: the choices as given.
        weight, activation: codes AFTER plateaus (`int3` that costs as `int4` reads `int4`).
        weight_bits: [K] exact bits of the stored weight, metadata included, BEFORE plateaus.
    """

    policies: tuple[LayerPolicy, ...]
    weight: tuple[str, ...]
    activation: tuple[str, ...]
    weight_bits: FloatArray

    @cached_property
    def stored_w_bits(self) -> IntArray:
        """[K] bits of a weight element as it is stored and moved, BEFORE plateaus, metadata not counted."""
        return np.array([policy.weight.bits for policy in self.policies], dtype=np.int64)

    @cached_property
    def stored_a_bits(self) -> IntArray:
        """[K] bits of an activation element as it is stored and moved, BEFORE plateaus, metadata not counted."""
        return np.array([policy.activation.bits for policy in self.policies], dtype=np.int64)

    @cached_property
    def w_bits(self) -> IntArray:
        """[K] bits of a weight code, after plateaus."""
        return np.array([code_bits(code) for code in self.weight], dtype=np.int64)

    @cached_property
    def a_bits(self) -> IntArray:
        """[K] bits of an activation code, after plateaus."""
        return np.array([code_bits(code) for code in self.activation], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class LayerCost:
    """Cost of ONE call of one layer for one batch of `identity.batch` examples, under K choices; every array is [K].

    Attributes:
        compute_s: time of the arithmetic alone; None where the device's sources give no time.
        latency_s: time of the layer; the excess over `compute_s` is stall.
        memory_s: time of the memory traffic alone; None where the model does not separate it.
        energy_j: part (`core`, `sram`, `dram`, ...) -> joules; empty where the sources give no energy.
        notes: shown by `explain`, one per choice ("interpolated"); empty where there is nothing to say.
    """

    compute_s: FloatArray | None = None
    latency_s: FloatArray | None = None
    memory_s: FloatArray | None = None
    energy_j: Mapping[str, FloatArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pair:
    """What the choices of two layers together add to a metric: kernels that depend on what reads their output, conversions between them.

    Attributes:
        metric: a sum over layers.
        first, second: positions of the layers in the network.
        added: [K of the first, K of the second], in the metric's unit; entries may be negative.
    """

    metric: str
    first: int
    second: int
    added: FloatArray


@dataclass(frozen=True, eq=False)
class GoldenComparison:
    """The n figures that a golden check compares.

    Attributes:
        labels: one name per figure.
        expected, predicted: [n] the published and the predicted figure.
        remarks: lines to print below.
        exact: [n] whether a row of the file agrees in everything it states; None: `expected` and `predicted` say it all.
        unseen_percent: relative errors, in percent, of figures predicted by a fit that did not see them; None where nothing is fitted.
    """

    labels: tuple[str, ...]
    expected: FloatArray
    predicted: FloatArray
    remarks: tuple[str, ...] = ()
    exact: NDArray[np.bool_] | None = None
    unseen_percent: FloatArray | None = None


def compare_points(golden: Golden, predicted: Sequence[float] | FloatArray, remarks: tuple[str, ...] = ()) -> GoldenComparison:
    """Compare the points of a golden check with as many predicted figures, in their order."""
    expected = np.array([point.expected for point in golden.points])
    return GoldenComparison(tuple(point.name for point in golden.points), expected, np.array(predicted), remarks)


LayerModel = Callable[[Layer, LayerChoices], LayerCost]
PairModel = Callable[[Device, Sequence[Layer], Sequence[LayerChoices]], tuple[Pair, ...]]
GoldenCheck = Callable[[Device, Golden], GoldenComparison]


@dataclass(frozen=True, eq=False)
class Model:
    """A cost model.

    Attributes:
        compute: schema of the device file's `[compute]` table.
        build: device -> the function that costs one layer; called once per table.
        checks: the golden checks of this model beside `GOLDEN_CHECKS`: name -> `package.module:function`, or the function itself.
        about: one line for the docs.
        moves: the bits that weights and activations move at: those `stored`, those of the code that they `run` as, or `none` counted.
        pairs: (device, the layers of a network, their choices) -> what two choices together add; None where layers are costed one by one.
    """

    compute: type[Compute]
    build: Callable[[Device], LayerModel]
    about: str
    checks: Mapping[str, str | GoldenCheck] = field(default_factory=dict)
    moves: Literal["stored", "run", "none"] = "stored"
    pairs: PairModel | None = None


def find_model(kind: str) -> Model:
    """Return the model that `identity.kind` names.

    Raises:
        InputError: there is no such model, or the user's own `package.module:attribute` is no `Model`.
    """
    model = resolve(MODELS, "device kind", kind)
    if not isinstance(model, Model):
        raise InputError(f"{kind!r} is {type(model).__name__}; a hw_models.models.Model is needed.")
    return model


def moves_as(device: Device) -> Literal["stored", "run", "none"]:
    """Return the bits that operands move at on a device; calibrated layers were measured with the code that runs."""
    return "run" if device.file.calibration else find_model(device.file.identity.kind).moves


def find_check(kind: str, name: str) -> GoldenCheck:
    """Return the golden check that `[[golden]] check` names, for devices of `kind`.

    Raises:
        InputError: the kind or the check does not exist, or the check's path leads to no function.
    """
    checks: Mapping[str, str | GoldenCheck] = {**GOLDEN_CHECKS, **find_model(kind).checks}
    if name not in checks:
        raise unknown("golden check", name, checks)
    check = checks[name]
    function = load(check) if isinstance(check, str) else check
    if not callable(function):
        raise InputError(f"golden check {name!r}: {check!r} is {type(function).__name__}; a function of device and golden is needed.")
    return function
