"""`Device`: one TOML file of what a device can run and what that costs, checked whole, every fault with its place."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hw_models.faults import check, listing
from hw_models.models import Model
from hw_models.schema import toml_text
from hw_models.schema.capability import Legal
from hw_models.schema.device_file import Compute, DeviceFile
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.registry import unknown

if TYPE_CHECKING:
    from hw_models.table import CostTable

FOLDER = Path(str(resources.files("hw_models"))) / "devices"
ComputeT = TypeVar("ComputeT", bound=Compute)


class DeviceError(InputError):
    """A device file that is wrong: every fault at once, each with its place."""


def device_names() -> tuple[str, ...]:
    """Return the names of the devices that ship with bitfront, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@dataclass(frozen=True, eq=False)
class Device:
    """A device: its file, checked, and the model that its kind names.

    Attributes:
        file: the checked file.
        model: builds the cost of a layer.
        compute: the checked `[compute]` table, of the model's own schema.
        folder: where the CSV files that the device file names are.
    """

    file: DeviceFile
    model: Model
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

    @staticmethod
    def load(name_or_path: str | Path) -> "Device":
        """Read a device that ships with bitfront by name, or the user's own file by path.

        Raises:
            DeviceError: the file is wrong; the message lists every fault with its line and key.
            InputError: there is no such device or file.
        """
        shipped = FOLDER / f"{name_or_path}.toml"
        if str(name_or_path) in device_names():
            return Device.parse(shipped.read_text(encoding="utf-8"), FOLDER, str(shipped))
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(f"{unknown('device', str(name_or_path), device_names())} Your own goes in as the path of a TOML file.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DeviceError(f"{path}: cannot be read as text: {error}") from None
        return Device.parse(text, path.parent, str(path))

    @staticmethod
    def parse(text: str, folder: Path = FOLDER, where: str = "device") -> "Device":
        """Read the text of a device file.

        Raises:
            DeviceError: listing every fault with its line and key.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DeviceError(f"{where}: not TOML: {error}") from None
        faults, file, model, compute = check(data, folder)
        if file is None or model is None or compute is None or faults:
            raise DeviceError(f"{where}: {len(faults)} fault{'s' * (len(faults) > 1)}\n{listing(faults, text)}")
        return Device(file, model, compute, folder)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form of the file, without what it leaves out."""
        plain = self.file.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"schema": 1} | plain | {"compute": self.compute.model_dump(mode="json", exclude_unset=True)}

    def to_toml(self) -> str:
        """Return the file as TOML; `Device.parse(d.to_toml(), d.folder)` is the same device."""
        return toml_text.dumps(self.to_json())

    def compute_as(self, kind: type[ComputeT]) -> ComputeT:
        """Return `[compute]` typed as the model's own schema."""
        assert isinstance(self.compute, kind)
        return self.compute

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
    def _legal(self) -> Mapping[str, Legal]:
        return {kind: Legal.of(rule) for rule in self.file.capability for kind in rule.layers}

    def legal(self, layer: Layer) -> Legal:
        """Return what a layer may take here; empty where the device does not run layers of this kind."""
        return self._legal.get(layer.kind, Legal.nothing())

    def table(self, layers: Sequence[Layer], choices: Mapping[str, Sequence[LayerPolicy]]) -> "CostTable":
        """Cost every choice of every layer once: see `hw_models.table.build`."""
        from hw_models.table import build

        return build(self, layers, choices)

    def cost(self, layers: Sequence[Layer], policy: Mapping[str, LayerPolicy]) -> dict[str, float]:
        """Cost one policy. To cost many, build the table once and use `CostTable.cost`.

        Raises:
            InputError: a layer takes what the device cannot run, or has no entry in the policy.
        """
        missing = [each.name for each in layers if each.name not in policy]
        if missing:
            raise InputError(f"the policy has no entry for {', '.join(missing)}; it names {', '.join(policy)}.")
        return self.table(layers, {each.name: (policy[each.name],) for each in layers}).totals(policy)
