"""`Device`: one checked device file, and the questions that cost models ask of it. It imports no model; `hw_models.loading` reads one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from hw_models.schema import toml_text
from hw_models.schema.capability import Capability
from hw_models.schema.device_file import Compute, DeviceFile
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError

FOLDER = Path(str(resources.files("hw_models"))) / "devices"
ComputeT = TypeVar("ComputeT", bound=Compute)


class DeviceError(InputError):
    """A device file that is wrong: every fault at once, each with its place."""


@dataclass(frozen=True, eq=False)
class Device:
    """A device: its file, checked.

    Attributes:
        file: the checked file; `file.identity.kind` names the model that costs its layers.
        compute: the checked `[compute]` table, of the model's own schema.
        folder: where the CSV files that the device file names are.
    """

    file: DeviceFile
    compute: Compute
    folder: Path

    @property
    def name(self) -> str:
        """The device's name."""
        return self.file.identity.name

    @property
    def batch(self) -> int:
        """Examples of one pass: `latency_s` and `energy_j` are for a whole pass."""
        return self.file.identity.batch

    @property
    def clock_hz(self) -> float:
        """Cycles per second.

        Raises:
            DeviceError: the file gives none, but the model counts in cycles.
        """
        if self.file.identity.clock_hz is None:
            raise DeviceError(f"device {self.name}: [identity] has no clock_hz, which kind {self.file.identity.kind!r} needs; add it.")
        return self.file.identity.clock_hz

    @cached_property
    def _capabilities(self) -> Mapping[str, Capability]:
        return {kind: Capability.of(rule) for rule in self.file.capability for kind in rule.layers}

    def legal(self, layer: Layer) -> Capability:
        """Return the capability for a layer; empty where the device does not run layers of this kind."""
        return self._capabilities.get(layer.kind, Capability.nothing())

    @property
    def latency_error(self) -> str:
        """How far off a latency is, in words to print beside it; empty where the device file does not state it."""
        accuracy = self.file.accuracy
        if accuracy is None:
            return ""
        return f"latency is off by {accuracy.latency_mean_percent:.3g} % on average, {accuracy.latency_max_percent:.3g} % at most"

    def compute_as(self, kind: type[ComputeT]) -> ComputeT:
        """Return `[compute]` typed as the model's own schema."""
        assert isinstance(self.compute, kind)
        return self.compute

    def to_json(self) -> dict[str, Any]:
        """Return the plain form of the file, without what it leaves out."""
        plain = self.file.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"schema": 1} | plain | {"compute": self.compute.model_dump(mode="json", exclude_unset=True)}

    def to_toml(self) -> str:
        """Return the file as TOML; `parse_device(device.to_toml(), device.folder)` is the same device."""
        return toml_text.dumps(self.to_json())
