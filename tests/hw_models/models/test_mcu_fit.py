"""Rates of microcontrollers: refitted here from the measured rows, with the errors of what each fit did not see."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from hw_models.device import FOLDER
from hw_models.loading import device_names, load_device
from hw_models.models.mcu import McuCompute
from hw_models.models.mcu_fit import McuFit, Network, fit_rates, leave_one_out, measured, read_networks
from hw_models.validation.run import validate
from quant_core.util.errors import InputError

SHARED = Path(__file__).parents[4] / "shared" / "golden"
DEVICES = tuple(name for name in device_names() if load_device(name).file.identity.kind == "mcu")
BOUND = 12.0


def fit_of(name: str) -> tuple[McuCompute, McuFit, tuple[Network, ...]]:
    engine = load_device(name).compute_as(McuCompute)
    assert engine.fit is not None
    return engine, engine.fit, measured(engine.fit, FOLDER)


def test_the_layers_have_the_published_macs(golden: Path) -> None:
    networks = {name: sum(layer.macs for layer in layers) for name, layers in read_networks(FOLDER / "mcu_layers.csv").items()}
    published = json.loads((golden / "published.json").read_text())["stm32h743_latency_ms"]["mmacs"]
    for name, millions in published.items():
        assert networks[f"mcunet-{name}"] / 1e6 == pytest.approx(millions, abs=0.051)
    assert [networks[name] for name in ("ic", "vww", "kws", "ad")] == [12501632, 7489664, 2656768, 264192]


def test_the_latencies_are_the_measured_ones() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    rows = {(row["series"], row["network"]): float(row["milliseconds"]) for row in _rows(FOLDER / "mcu_latencies.csv")}
    engines = {"tinyengine": "TinyEngine_0363956", "cmsis-nn": "CMSIS-NN_011bf32", "xcubeai": "X-CUBE-AI_v7.3.0"}
    for row in _rows(SHARED / "tinyengine_stm32h743_measured.csv"):
        for series, column in engines.items():
            key = (f"h743-{series}", row["net_id"])
            if row["metric"] == "latency" and key in rows:
                assert row[column] == f"{rows.pop(key):g}ms"
    boards = {"h7a3": "H7A3ZI", "u575": "U575ZI", "l4r5": "L4R5ZI"}
    for row in _rows(SHARED / "mlperf_tiny_results.csv"):
        for board, system in boards.items():
            key = (f"{board}-{row['version']}", row["benchmark"])
            names = (f"NUCLEO-{system}", f"NUCLEO-{system}-Q")
            if row["organization"] == "STMicroelectronics" and row["system"].replace("_", "-") in names and key in rows:
                assert rows.pop(key) == pytest.approx(1e3 / float(row["inf_per_s"]), rel=1e-5)
    assert rows == {}


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")))


@pytest.mark.parametrize("name", DEVICES)
def test_the_rates_in_the_file_are_the_fit_of_the_measured_rows(name: str) -> None:
    engine, fit, networks = fit_of(name)
    assert engine.rates("int8/int8") == pytest.approx(fit_rates(fit, networks).tolist(), rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("name", DEVICES)
def test_what_a_fit_did_not_see_is_within_the_bound(name: str) -> None:
    _, fit, networks = fit_of(name)
    assert leave_one_out(fit, networks, by_network=False).mean() <= BOUND
    assert leave_one_out(fit, networks, by_network=True).mean() <= 16.0  # a network that no board ran: see docs/hardware.md


def test_one_series_is_fitted_by_plain_non_negative_least_squares() -> None:
    _, fit, networks = fit_of("stm32h743-xcubeai")
    seconds = np.array([network.seconds for network in networks])
    scaled = np.stack([network.features for network in networks]) / seconds[:, None]
    unit = scaled.max(axis=0)
    assert fit_rates(fit, networks) == pytest.approx(nnls(scaled / unit, np.ones(len(seconds)))[0] / unit, rel=1e-9)
    left = leave_one_out(fit, networks, by_network=False)
    kept = np.arange(len(seconds)) != 3
    others = nnls(scaled[kept] / unit, np.ones(len(seconds) - 1))[0] / unit
    assert left[3] == pytest.approx(100 * abs(float(networks[3].features @ others) / seconds[3] - 1), rel=1e-6)


def test_ratios_and_speeds_of_several_series_are_recovered() -> None:
    rng = np.random.default_rng(0)
    fit = McuFit(layers="", latencies="", series="mine", ratios_from=("a", "b"), separate_depthwise=False, source="s")
    rates = np.array([2e-9, 2e-9, 5e-8, 1e-8])
    shapes = rng.uniform(1e4, 1e7, (6, 4))
    networks = [
        Network(series, f"n{i}", shape, speed * float(shape @ rates))
        for series, speed in (("a", 1.0), ("b", 3.0), ("mine", 0.5))
        for i, shape in enumerate(shapes[:4] if series != "mine" else shapes[4:])
    ]
    assert fit_rates(fit, networks) == pytest.approx(0.5 * rates, rel=1e-6)
    assert leave_one_out(fit, networks, by_network=False).max() < 1e-4
    broken = replace(networks[-1], seconds=networks[-1].seconds * 9, whole=False)
    assert fit_rates(fit, [*networks[:-1], broken]) == pytest.approx(0.5 * rates, rel=1e-6)


def test_a_network_that_is_not_whole_is_named() -> None:
    latency = next(check for check in validate(load_device("nucleo-h7a3zi-q")) if check.name.startswith("latency"))
    assert latency.remarks[0].startswith("leave one out of 3: mean error 5.91 %")
    assert "vww is not in the fit: its measured 29.6 ms are 0.61 of the model's" in latency.remarks


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    _, fit, _ = fit_of("nucleo-h7a3zi-q")
    with pytest.raises(InputError, match="no row of series h7a3-v9"):
        measured(fit.model_copy(update={"series": "h7a3-v9"}), FOLDER)
    path = tmp_path / "layers.csv"
    path.write_text("network,kind,in_channels,out_channels,kernel,stride,in_size,out_size\nx,pool,1,1,1,1,1,1\n")
    with pytest.raises(InputError, match="row 1: kind 'pool'; legal: linear, conv"):
        read_networks(path)
