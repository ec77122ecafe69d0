import json
from pathlib import Path

import pytest

from hw_models.loading import device_names, load_device
from hw_models.validation.run import validate


@pytest.mark.parametrize("name", [name for name in device_names() if load_device(name).file.golden])
def test_every_shipped_golden_is_within_its_tolerance(name: str) -> None:
    for check in validate(load_device(name)):
        assert check.passed, check
        assert check.n > 0
        assert check.source


def test_devices_with_published_figures_have_goldens() -> None:
    without = {name for name in device_names() if not load_device(name).file.golden}
    assert without <= {"a100", "h100", "h200", "b200", "generic-cpu"}


def figures(name: str, check: int) -> dict[str, float]:
    return {point.name: point.expected for point in load_device(name).file.golden[check].points}


def test_the_figures_in_the_device_files_are_the_published_ones(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())
    tiny = published["stm32h743_latency_ms"]
    for device, engine in (("tinyengine", "tinyengine"), ("cmsis-nn", "cmsis_nn"), ("xcubeai", "xcubeai")):
        assert figures(f"stm32h743-{device}", 0) == {f"mcunet-{name}": latency_ms for name, latency_ms in tiny[engine].items()}
        points = load_device(f"stm32h743-{device}").file.golden[0].points
        assert [point.given["macs"] for point in points] == [1e6 * tiny["mmacs"][name] for name in tiny[engine]]
    boards = published["mlperf_tiny_v1_1_int8"]
    for device in ("nucleo_h7a3zi_q", "nucleo_u575zi_q"):
        named = dict(zip(("ic", "vww", "kws", "ad"), boards[device]["uj"], strict=True))
        assert figures(device.replace("_", "-"), 0) == named
        given = [point.given["latency_ms"] for point in load_device(device.replace("_", "-")).file.golden[0].points]
        assert given == boards[device]["ms"]
    rates = {f"int{w}/int{a}": rate for a, row in published["mpic_mac_per_cycle"].items() if a.isdigit() for w, rate in row.items()}
    assert figures("mpic", 0) == rates
    macs = published["mac_energy_synthesised_45nm_pj"]
    assert figures("horowitz-45nm", 0) == {f"int{bits}": pj for bits, pj in macs.items() if bits.isdigit()}
    assert figures("vu9p-lut", 1) == {k: v for k, v in published["haq_vu9p_lut_totals_cycles"].items() if k != "source"}
    counts = published["hawqv3_counts"]["resnet18_bops_g"]
    assert list(figures("counts", 0).values()) == [1e9 * giga for giga in counts.values()]
    assert figures("pynq-z1-bismo", 0) == {"binary": 1e12 * published["bismo"]["peak_binary_tops"]["pynq_z1"]}
    assert figures("ultra96-bismo", 0) == {"binary": 1e12 * published["bismo"]["peak_binary_tops"]["ultra96"]}


def test_the_issues_bounds_hold() -> None:
    checks = {(check.device, n): check for name in device_names() for n, check in enumerate(validate(load_device(name)))}
    bitserial = checks["vu9p-bitserial", 0]
    assert bitserial.n == 2000
    assert bitserial.mean_percent < 2.0
    assert bitserial.max_percent < 3.5
    assert checks["vu9p-lut", 0].exact == checks["vu9p-lut", 0].n == 53 * 64
    assert all(checks[f"stm32h743-{engine}", 0].mean_percent < 8 for engine in ("tinyengine", "cmsis-nn", "xcubeai"))
    assert all(checks[board, 0].max_percent < 6 for board in ("nucleo-h7a3zi-q", "nucleo-u575zi-q"))
    assert checks["mpic", 0].exact == 9
    assert checks["t4", 0].mean_percent <= 8
    assert checks["t4", 1].mean_percent <= 11
    assert checks["horowitz-45nm", 0].mean_percent < 15
