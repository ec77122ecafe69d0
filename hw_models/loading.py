"""Read a device: one that ships with bitfront by name, or the user's own file by path. A file is checked as a whole before it is used."""

from pathlib import Path

from hw_models.device import FOLDER, Device, DeviceError
from hw_models.faults import check, listing
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder
from quant_core.util.reading import LARGEST_TOML, parse_toml, read_text
from quant_core.util.registry import unknown
from quant_core.util.text import listed

HERE = "this-machine:"
"""Before the name of a runtime: the device that `bitfront profile --runtime` measured on this machine."""
PROFILED = ("executorch", "litert", "onnxruntime", "openvino", "torch")
"""The runtimes that it measures."""


def machine_folder() -> Path:
    """Return the folder of the devices that were measured on this machine."""
    return cache_folder() / "machines"


def machine_name(runtime: str) -> str:
    """Return the name of the device of a runtime on this machine."""
    return f"this-machine-{runtime}"


def _of_this_machine(runtime: str) -> Device:
    path = machine_folder() / f"{machine_name(runtime)}.toml"
    if not path.is_file():
        if runtime not in PROFILED:
            raise InputError(f"{unknown('runtime', runtime, PROFILED)} A device of this machine is {HERE}RUNTIME.")
        measured = sorted(other.stem.removeprefix(machine_name("")) for other in machine_folder().glob(f"{machine_name('*')}.toml"))
        there = f"measured here: {listed(f'{HERE}{name}' for name in measured)}" if measured else "no runtime was measured here"
        raise InputError(
            f"device '{HERE}{runtime}' is not measured yet ({there}); run `bitfront profile --runtime {runtime} --layers EXPERIMENT.toml`."
        )
    return load_device(path)


def device_names() -> tuple[str, ...]:
    """Return the names of the devices that ship with bitfront, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_device(name_or_path: str | Path) -> Device:
    """Read a device that ships with bitfront by name, one measured here as `this-machine:RUNTIME`, or the user's own file by path.

    Raises:
        DeviceError: the file is wrong; the message lists every fault with its line and key.
        InputError: there is no such device or file.
    """
    if str(name_or_path).startswith(HERE):
        return _of_this_machine(str(name_or_path).removeprefix(HERE))
    shipped = FOLDER / f"{name_or_path}.toml"
    if str(name_or_path) in device_names():
        return parse_device(shipped.read_text(encoding="utf-8"), FOLDER, str(shipped))
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(f"{unknown('device', str(name_or_path), device_names())} Your own goes in as the path of a TOML file.")
    try:
        text = read_text(path, LARGEST_TOML)
    except InputError as error:
        raise DeviceError(str(error)) from None
    return parse_device(text, path.parent, str(path))


def parse_device(text: str, folder: Path = FOLDER, where: str = "device") -> Device:
    """Read the text of a device file.

    Raises:
        DeviceError: listing every fault with its line and key.
    """
    try:
        data = parse_toml(text, where)
    except InputError as error:
        raise DeviceError(str(error)) from None
    faults, file, compute = check(data, folder)
    if file is None or compute is None or faults:
        raise DeviceError(f"{where}: {len(faults)} fault{'s' * (len(faults) > 1)}\n{listing(faults, text)}")
    return Device(file, compute, folder)
