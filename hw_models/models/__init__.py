"""Cost models: each turns a device file into the time and energy of one layer under every choice at once.

A model module exports one `Model`, named here; a device file names it in `identity.kind` (or names the user's own
`package.module:attribute`). Adding a model = one module + one line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hw_models.schema.codes import code_bits
from hw_models.schema.device_file import Compute, Golden
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy

if TYPE_CHECKING:
    from hw_models.device import Device

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


@dataclass(frozen=True, eq=False)
class Modes:
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
        latency_s: time of the layer; what it exceeds `compute_s` by is stall.
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
class Points:
    """What a golden check compares, n rows.

    Attributes:
        labels: what each row is.
        expected, predicted: [n] the published and the predicted figure.
        remarks: lines to print below.
        exact: [n] whether a row agrees in everything it states; None: `expected` and `predicted` say it all.
    """

    labels: tuple[str, ...]
    expected: FloatArray
    predicted: FloatArray
    remarks: tuple[str, ...] = ()
    exact: NDArray[np.bool_] | None = None


LayerModel = Callable[[Layer, Modes], LayerCost]


@dataclass(frozen=True, eq=False)
class Model:
    """A cost model.

    Attributes:
        compute: schema of the device file's `[compute]` table.
        build: device -> the function that costs one layer; called once per table.
        checks: what `[[golden]] check = NAME` can mean for this model beside the checks of `hw_models.validation`.
        about: one line for the docs.
    """

    compute: type[Compute]
    build: "Callable[[Device], LayerModel]"
    about: str
    checks: "Mapping[str, Callable[[Device, Golden], Points]]" = field(default_factory=dict)
