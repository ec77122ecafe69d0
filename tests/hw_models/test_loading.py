from pathlib import Path

import pytest

from hw_models.device import DeviceError
from hw_models.loading import device_names, load_device, parse_device
from hw_models.shapes import read_layers
from quant_core.util.errors import InputError


@pytest.mark.parametrize("name", device_names())
def test_every_device_survives_json_and_toml(name: str) -> None:
    device = load_device(name)
    again = parse_device(device.to_toml(), device.folder)
    assert device.name == name
    assert again.to_json() == device.to_json()
    assert again.file == device.file
    assert again.compute == device.compute


def test_a_users_file_is_loaded_by_path(tmp_path: Path, toy: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(toy)
    assert load_device(path).name == "toy"
    assert load_device(str(path)).batch == 2


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown device 'vu9p-bitseriel'; known: .*t4.* Did you mean 'vu9p-bitserial'.* path of a TOML"):
        load_device("vu9p-bitseriel")


def test_broken_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("schema = 1\n[identity\n")
    with pytest.raises(DeviceError, match=r"x.toml: not TOML: .*line 2"):
        load_device(path)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DeviceError, match=r"x.toml: cannot be read as text"):
        load_device(path)
    with pytest.raises(InputError, match=r"x.toml: cannot be read as CSV"):
        read_layers(path)
