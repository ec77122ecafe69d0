"""The device file of a profile: what it lets layers take, and when a second run may go on."""

from pathlib import Path

import pytest

from hw_models.loading import load_device
from hw_models.measurements import Measurement, Mode
from hw_models.models.measured import Host
from hw_models.profiling.device import resume, write
from hw_models.profiling.host import host
from hw_models.profiling.onnx import FP32, NBITS, S8S8, U8S8, U8U8, XNOR
from quant_core.spec.layer import Layer
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import InputError

CONV = Layer("", "conv", 8, 16, (16, 8, 3, 3), (6, 6), (6, 6), 41472, (3, 3), (1, 1), (1, 1))
LINEAR = Layer("", "linear", 32, 10, (10, 32), (1,), (1,), 320)


@pytest.fixture
def machine() -> Host:
    return host(1)


def rows(layer: Layer, modes: tuple[Mode, ...], first: float = 1e-3) -> list[Measurement]:
    return [Measurement(layer, mode, first * (n + 1), 0.1, 5) for n, mode in enumerate(modes)]


def test_a_profile_is_a_device_file_with_its_host_and_its_source(tmp_path: Path, machine: Host) -> None:
    path = write("my-laptop", tmp_path, machine, 4, rows(CONV, (FP32, U8S8)))
    device = load_device(path)
    assert (device.name, device.file.identity.kind, device.batch) == ("my-laptop", "measured", 4)
    assert device.to_json()["compute"]["host"] == machine.model_dump(exclude_defaults=True)
    assert "least process CPU time of up to 5 repeats" in device.file.source[0].title
    assert machine.fingerprint in device.file.source[0].where
    assert sorted(file.name for file in tmp_path.iterdir()) == ["my-laptop.csv", "my-laptop.toml"]


@pytest.mark.parametrize(
    ("kind", "choice", "runs"),
    [
        ("linear", "weight=int8:channel,activation=int8:tensor", ("int8", "int8")),
        ("linear", "weight=int3:channel,activation=int6:tensor", ("int8", "int8")),
        ("linear", "weight=int3:group32,activation=float", ("int4", "float")),
        ("linear", "weight=ternary,activation=float", ("int2", "float")),
        ("linear", "weight=binary:channel,activation=binary", ("binary", "binary")),
        ("linear", "weight=binary:channel,activation=int8:tensor", ("int8", "int8")),
        ("linear", "weight=float,activation=int8:tensor", ("float", "float")),
        ("linear", "weight=int12:channel,activation=int8:tensor", ("float", "float")),
        ("conv", "weight=int4:channel,activation=float", ("float", "float")),
        ("conv", "weight=int4:channel,activation=int4:tensor", ("int8", "int8")),
        ("conv", "weight=binary:channel,activation=binary", ("int8", "int8")),
    ],
)
def test_narrower_codes_run_as_the_nearest_measured_pair(
    tmp_path: Path, machine: Host, kind: str, choice: str, runs: tuple[str, str]
) -> None:
    measured = [*rows(LINEAR, (FP32, U8S8, U8U8, S8S8, *NBITS, XNOR)), *rows(CONV, (FP32, U8S8))]
    device = load_device(write("x", tmp_path, machine, 1, measured))
    layer = LINEAR if kind == "linear" else CONV
    assert device.legal(layer).run_as(parse_layer_policy(choice)) == runs


def test_a_second_run_on_the_same_machine_goes_on(tmp_path: Path, machine: Host) -> None:
    assert resume("x", tmp_path, machine, 1) == ()
    before = rows(CONV, (FP32, U8S8))
    write("x", tmp_path, machine, 1, before)
    assert resume("x", tmp_path, machine, 1) == tuple(before)


def test_a_second_run_elsewhere_is_refused_with_what_differs(tmp_path: Path, machine: Host) -> None:
    write("x", tmp_path, machine, 1, rows(CONV, (FP32,)))
    other = machine.model_copy(update={"cpu": "Cortex", "threads": 4})
    with pytest.raises(InputError, match=r"now 'Cortex'; threads 1, now 4; batch 1, now 2\. Give another --device-name"):
        resume("x", tmp_path, other, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [("My Laptop", "device name 'My Laptop' given; small letters"), ("../x", "small letters"), ("t4", "ships with bitfront")],
)
def test_a_bad_name_is_refused(tmp_path: Path, machine: Host, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resume(name, tmp_path, machine, 1)


def test_a_device_that_no_profile_wrote_is_left_alone(tmp_path: Path, machine: Host, toy: str) -> None:
    (tmp_path / "toy.toml").write_text(toy)
    with pytest.raises(InputError, match="kind 'bitserial', which no profile wrote"):
        resume("toy", tmp_path, machine, 1)
